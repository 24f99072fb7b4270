"""Which weights are tried without their zeros, and what is made of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import prune

import txgraph
from tests.helpers import normal
from tests.small import assert_as_eager, graph_of, module, traced
from txgraph.backends.calls import gemm
from txgraph.backends.calls.sparse import Zeros, left_dense
from txgraph.ir import check_spec, interpret
from txgraph.passes.precision.weight_only import WeightOnly
from txgraph.verify import check_gates

Tensor = torch.Tensor
X = normal(6, 32)
SPARSE = "txgraph::sparse_linears_native"


def pruned(n: int, k: int, kept: int = 10, rows: int = 1) -> Tensor:
    """Of ``kept`` pairs of columns one stays in each group of so many rows, and of all rows the first three columns."""
    places = ((torch.arange(k)[None] + torch.arange(n)[:, None] // rows * 6) // 2) % kept == 0
    places[:, :3] = True
    return (normal(n, k) + 3) * places


@pytest.fixture(autouse=True)
def tried(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The sparse way wins wherever it is tried; what was tried."""
    found: list[list[str]] = []

    def decided(ways: Mapping[str, Callable[[], object]], *_: object, compared: str = "") -> tuple[str, str]:
        found.append(list(ways))
        assert (compared == "sparse") is ("sparse" in ways)
        for way in ways.values():
            way()
        return ("sparse" if "sparse" in ways else "aten"), "measured"

    monkeypatch.setattr(gemm, "fastest", decided)
    return found


def check(function: Callable[..., Tensor], **constants: Tensor) -> Any:
    graph = traced(function, X, **constants)
    report = gemm.choose_gemms(graph)
    graph.eliminate_dead_code()
    check_spec(graph)
    eager, oracle = function(X, *constants.values()), function(X.double(), *(c.double() for c in constants.values()))
    assert [str(g) for g in check_gates(interpret(graph, [X]), [eager], [oracle]) if not g.passed] == []
    return graph, report


@pytest.mark.parametrize("rows", [1, 4])
def test_a_pruned_weight(rows: int) -> None:
    graph, report = check(lambda x, w, b: F.linear(x, w, b), w=pruned(64, 32, rows=rows), b=normal(64))
    assert graph.count() == {SPARSE: 1, "getitem": 1}
    groups = " in groups of 4 rows" if rows == 4 else ""
    assert report == {f"linear 6x32x64, 20 % not zero{groups}": "measured; not zero: w 18.4%"}
    assert set(graph.constants) == {"w_nonzero", "b"}  # the dense weight is not read
    assert graph.constants.frozen_values() == {"w"}
    assert graph.constants["w_nonzero"].nbytes < 64 * 32 * 4 / 2


def test_few_zeros_are_not_tried(tried: list[list[str]]) -> None:
    graph, report = check(lambda x, w: F.linear(x, w), w=normal(64, 32) * (torch.arange(32) >= 9))
    assert list(report) == ["linear 6x32x64"]
    assert "sparse" not in tried[0]
    assert graph.count() == {"linear": 1}


def test_linears_of_one_input_and_a_tied_weight() -> None:
    def function(x: Tensor, w: Tensor, v: Tensor) -> Tensor:
        first, second = torch.ops.txgraph.linears(x, [w, v], [None, None])
        return torch.cat([first, second, F.linear(x + 1, w)], -1)

    graph, report = check(function, w=pruned(64, 32), v=pruned(8, 32))
    assert graph.count()[SPARSE] == 2
    assert list(report.values()) == ["measured; not zero: w 18.4%, v 18.4%", "measured; not zero: w 18.4%"]
    assert set(graph.constants) == {"w_nonzero", "v_nonzero"}  # w is packed once


def test_a_transposed_weight_and_an_activation() -> None:
    for activation in ("gelu", "tanh"):  # the kernel does not compute tanh

        def function(x: Tensor, w: Tensor, activation: str = activation) -> Tensor:
            result: Tensor = torch.ops.txgraph.linear_activation(x, w.transpose(0, 1), None, activation)
            return result

        graph = traced(lambda x, w: function(x, w), X, w=pruned(64, 32).t().contiguous())
        gemm.choose_gemms(graph)
        assert graph.count()[SPARSE] == 1
        assert graph.count().get("tanh", 0) == (activation == "tanh")
        torch.testing.assert_close(interpret(graph, [X])[0], function(X, pruned(64, 32).t()))


def test_groups_and_blocks() -> None:
    assert Zeros.of([normal(8, 8)]) is None
    assert Zeros.of([pruned(64, 32)]) == Zeros(20, 1)
    assert Zeros.of([pruned(64, 32, rows=4)]) == Zeros(20, 4)
    assert (Zeros(25, 1).block, Zeros(30, 1).block) == (256, 128)


def test_what_no_sparse_kernel_takes() -> None:
    """Said with the reason; other dtypes, and GPUs."""
    w = torch.tensor([1.0, 2, 0, 0]).repeat(8, 8)
    graph = traced(lambda x, w: F.linear(x, w), X.bfloat16(), w=w.bfloat16())
    assert gemm.choose_gemms(graph) == {}
    reason = "the sparse kernel is for float32 on CPUs, this is bfloat16 on cpu"
    (left,) = left_dense(graph, "cpu").items()
    assert left == ("linear of bfloat16 8x32, 50 % not zero", f"dense: {reason}; not zero: w 50.0%, two of four")
    wide = traced(lambda x, w: F.linear(x, w), X, w=w)
    assert "float32 on cuda" in next(iter(left_dense(wide, "cuda").values()))
    assert left_dense(wide, "cpu") == left_dense(traced(lambda x, w: F.linear(x, w), X, w=normal(8, 32)), "cuda") == {}


class Layers(nn.Module):
    """Four blocks, pruned by torch's own way: the weights are products with masks."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(nn.Linear(32, 32) for _ in range(4))
        for layer in self.layers:
            prune.random_unstructured(layer, "weight", amount=0.8)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + torch.relu(layer(x))
        return x


def test_a_pruned_model() -> None:
    """Of any number of rows; layers are compiled once; and what is pruned further, or grows, is seen."""
    model = Layers().eval()
    fast = txgraph.optimize(model, (X,), dynamic_shapes=({0: torch.export.Dim.AUTO},), options={"layers": True})
    (choice,) = fast.report.graphs[0].choices.values()
    assert choice.count("weight_mask and layers.") == 4
    assert fast.code().count("sparse_linears_native.default(") == 1
    for rows in (6, 2, 33):
        assert_as_eager(fast(normal(rows, 32)), model, normal(rows, 32))
    assert fast.report.fallbacks == []
    with torch.no_grad():
        model.layers[1].weight_mask.fill_(1)  # what was zero is not
    assert_as_eager(fast(X), model, X)
    assert len(fast.report.graphs) == 2


def test_a_weight_that_each_call_changes_stays_dense(tried: list[list[str]]) -> None:
    def forward(x: Tensor) -> Tensor:
        held.weight.add_(1.0)
        return F.linear(x, held.weight)

    held = nn.Module()
    held.register_buffer("weight", torch.zeros(8, 32))
    gemm.choose_gemms(graph_of(module(forward, held=held), X).copy())
    assert not any("sparse" in ways for ways in tried)


def test_lossy_methods_tell_pruned_linears_from_others() -> None:
    """Of places of one shape one is timed: an int8 product may beat the dense linear, and not the sparse one."""
    graph = traced(lambda x, w, v: F.linear(x, w) + F.linear(x, v), X, w=pruned(64, 32), v=normal(64, 32))
    first, second = (node for node in graph.calls() if node.target is torch.ops.aten.linear.default)
    assert WeightOnly().shape_of(graph, first) != WeightOnly().shape_of(graph, second)
