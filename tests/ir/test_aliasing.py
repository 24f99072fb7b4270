"""Which values share memory, told from the operators and held against what torch really does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.small import traced
from txgraph.ir import op_name
from txgraph.ir.aliasing import base_of, copy_is_needed, is_output, is_view, owns_memory, reaches_output

X = torch.arange(24.0).reshape(2, 3, 4)

VIEWS: list[Callable[[torch.Tensor], Any]] = [
    lambda x: x.view(6, 4),
    lambda x: x.reshape(6, 4),
    lambda x: x.transpose(0, 1),
    lambda x: x.permute(2, 0, 1),
    lambda x: x.unsqueeze(0),
    lambda x: x[:, 1:],
    lambda x: x[0],
    lambda x: x.expand(5, 2, 3, 4),
    lambda x: x.split(1)[1],
    lambda x: x.chunk(2, -1)[1],
    lambda x: x.unbind(1)[2],
    lambda x: x.diagonal(0, 1, 2),
    lambda x: x.detach().t() if x.ndim == 2 else x.mT,
]
COMPUTED: list[Callable[[torch.Tensor], Any]] = [
    lambda x: x + 1,
    lambda x: x.clone(),
    lambda x: x.repeat(2, 1, 1),
    lambda x: torch.cat([x, x]),
    lambda x: torch.ops.aten._to_copy(x, dtype=torch.float64),
    lambda x: x.sum(0),
    lambda x: x.sort().values,
]


@pytest.mark.parametrize("function", VIEWS)
def test_views(function: Callable[[torch.Tensor], Any]) -> None:
    assert function(X).untyped_storage().data_ptr() == X.untyped_storage().data_ptr()
    graph = traced(lambda x: function(x), X)
    (output,) = graph.outputs
    assert is_view(output)
    assert base_of(output) is graph.inputs[0]
    assert not owns_memory(output)


@pytest.mark.parametrize("function", COMPUTED)
def test_computed_values(function: Callable[[torch.Tensor], Any]) -> None:
    assert function(X).untyped_storage().data_ptr() != X.untyped_storage().data_ptr()
    (output,) = traced(lambda x: function(x), X).outputs
    assert base_of(output) is not None
    assert owns_memory(output)


def test_chains_of_views() -> None:
    graph = traced(lambda x: (x * 2).transpose(0, 1).unsqueeze(0)[0].mT, X)
    (output,) = graph.outputs
    assert op_name(base_of(output)) == "mul"
    assert owns_memory(output)


def test_constants_and_their_views_are_not_owned_by_the_graph() -> None:
    graph = traced(lambda x, w: (x @ w, w.t()), X, w=torch.ones(4, 4))
    transposed = graph.outputs[1]
    assert base_of(transposed).op == "get_attr"
    assert not owns_memory(transposed)
    assert not owns_memory(base_of(transposed))


def test_plain_values() -> None:
    assert base_of(3) == 3
    assert not owns_memory(3)
    assert not owns_memory(None)


def test_outputs() -> None:
    graph = traced(lambda x: (x + 1) * 2, X)
    add, mul = graph.calls()
    assert is_output(mul)
    assert not is_output(add)


def test_which_values_an_output_shares_memory_with() -> None:
    graph = traced(lambda x: ((x + 1).transpose(0, 1)[0], (x * 2).exp(), x.neg()), X)
    by_name = {op_name(n): n for n in graph.calls()}
    reaching = {name for name, node in by_name.items() if reaches_output(node)}
    assert reaching == {"add", "transpose", "select", "exp", "neg"}


@pytest.mark.parametrize(
    ("function", "needed"),
    [
        (lambda x: x.exp().clone().sin(), False),
        (lambda x: x.exp().clone().t(), False),
        (lambda x: x.exp().clone(), False),
        (lambda x: x.exp()[:1].clone(), True),
        (lambda x: x.exp().t().clone(memory_format=torch.contiguous_format), True),
        (lambda x: (lambda y: (y, y.clone()))(x.exp()), True),
        (lambda x: x.clone().sin(), True),
        (lambda x: x.t().clone().sin(), True),
        (lambda x: (lambda y: (y, y.clone().t()))(x.exp()), True),
        (lambda x: (lambda y: (y.t(), y.clone().t()))(x.exp()), True),
        (lambda x: (lambda y: (y, y.clone().sin()))(x.exp()), False),
        (lambda x: (lambda y: (y[0], y.t().clone().t()))(x.exp()), True),
    ],
)
def test_which_copies_are_needed(function: Callable[[torch.Tensor], Any], needed: bool) -> None:
    graph = traced(lambda x: function(x), torch.ones(2, 4))
    (copy,) = [n for n in graph.calls() if n.target is torch.ops.aten.clone.default]
    assert copy_is_needed(copy.args[0], copy) == needed
