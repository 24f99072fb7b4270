"""Which operators run as one kernel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tests.small import traced
from txgraph.cost.kernels import fused_kernels, separate_kernels
from txgraph.ir import op_name

X, W = torch.ones(2, 3, 8), torch.ones(8, 8)


def kernels(function: Callable[..., Any], *inputs: torch.Tensor) -> list[str]:
    return [" ".join(map(op_name, kernel)) for kernel in fused_kernels(traced(function, *inputs).calls())]


def test_each_operator_that_costs_something_is_a_kernel_in_eager() -> None:
    graph = traced(lambda x: torch.relu(x.transpose(0, 1) * 2), X)
    assert [[op_name(n) for n in kernel] for kernel in separate_kernels(graph.calls())] == [["mul"], ["relu"]]


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x, w: torch.relu(x * 2) + 1, ["mul relu add"]),
        (lambda x, w: F.layer_norm(x + 1, [8]).softmax(-1), ["add layer_norm softmax"]),
        (lambda x, w: x - x.mean(-1, keepdim=True), ["mean sub"]),
        (lambda x, w: torch.relu(F.linear(x, w)) * 2, ["linear", "relu mul"]),
        (lambda x, w: torch.relu((x * 2).view(6, 8).transpose(0, 1)), ["mul relu"]),
        (lambda x, w: torch.relu((x * 2).mT.reshape(48)), ["mul reshape relu"]),
        (lambda x, w: (x * 2).split(4, -1)[0] + 1, ["mul add"]),
        (lambda x, w: (x * 2, x.view(6, 8) + 1), ["mul", "add"]),  # only what is computed connects
        (lambda x, w: (x * 2).sort().values + 1, ["mul", "sort", "add"]),
    ],
)
def test_connected_operators_fuse(function: Callable[..., Any], expected: list[str]) -> None:
    assert kernels(function, X, W) == expected


def test_a_residual_does_not_join_what_a_linear_stands_between() -> None:
    def block(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        h = torch.relu(x) * 2
        return torch.tanh(F.linear(h, w) + h)

    assert kernels(block, X, W) == ["relu mul", "linear", "add tanh"]


def test_no_kernel_waits_for_itself() -> None:
    def two_ways(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        a = torch.relu(x)
        b = F.linear(a, w)
        return torch.tanh(torch.sigmoid(a) + b) * a

    order = kernels(two_ways, X, W)
    assert order == ["relu sigmoid", "linear", "add tanh mul"]


def test_order_and_repetitions_of_the_nodes_do_not_matter() -> None:
    nodes = traced(lambda x, w: torch.relu(F.linear(x * 2, w)) + 1, X, W).calls()
    backwards = fused_kernels([*nodes[::-1], *nodes])
    assert {frozenset(kernel) for kernel in backwards} == {frozenset(kernel) for kernel in fused_kernels(nodes)}
