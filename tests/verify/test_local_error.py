"""Each rewrite is measured by itself: in the model's dtype, in float64, and at the model's outputs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch.fx import Node

from tests.helpers import normal
from tests.small import apply, graph_of, traced
from tests.zoo import ZOO
from txgraph import NodePass, Pass, PassContext, Pipeline, default_pipeline
from txgraph.ir import Graph, GraphBuilder, interpret, op_name
from txgraph.passes.fuse.fuse_attention import FuseAttention
from txgraph.pipeline import PassResult
from txgraph.rewrite import Rewrite, replace
from txgraph.verify import local_error
from txgraph.verify.local_error import LocalError, measure_rewrites

X, Y = normal(5, 8), normal(8, 5)


@dataclass(frozen=True)
class Sines(NodePass):
    """Replaces each sine by what is given."""

    by: Callable[[Any, GraphBuilder], Node]

    def rewrite(self, node: Node, g: GraphBuilder) -> Node | None:
        return self.by(node.args[0], g) if op_name(node) == "sin" else None


def measured(each: Pass, function: Callable[..., Any], *inputs: torch.Tensor) -> list[LocalError]:
    """The errors of a pass's rewrites, in their order."""
    graph = traced(function, *inputs)
    after, rewrites = apply(each, graph)
    result = PassResult(each, graph, after, tuple(rewrites), PassContext())
    found = measure_rewrites(result, lambda: [t.clone() for t in inputs])
    return [found[rewrite] for rewrite in rewrites]


def same(x: Node, g: GraphBuilder) -> Node:
    return g.aten.sin(g.aten.clone(x))


def larger(x: Node, g: GraphBuilder) -> Node:
    return g.aten.mul.Tensor(g.aten.sin(x), 1.001)


def through_cosine(x: Node, g: GraphBuilder) -> Node:
    return g.aten.cos(g.aten.add.Tensor(x, -math.pi / 2))


def test_equal_to_the_last_bit() -> None:
    (error,) = measured(Sines(same), lambda x: x.sin() * 2, X)
    assert error.before == error.after > 0
    assert (error.exact, error.change, error.reason) == (0, 0, "")
    assert [gate.gate for gate in error.gates] == ["G0", "G1", "G2", "G3"]


def test_rounding_is_told_from_what_is_not() -> None:
    (error,) = measured(Sines(through_cosine), lambda x: x.sin() * 2, X)
    assert error.after > error.before > 0
    assert error.exact < 1e-15
    assert 0 < error.change < 1e-6
    (error,) = measured(Sines(larger), lambda x: x.sin() * 2, X)
    largest = float((X.double().sin().abs() * 1e-3 / (1 + X.double().sin().abs())).max())
    assert error.exact == pytest.approx(largest, rel=1e-6)
    assert error.after == pytest.approx(1e-3, rel=1e-3)
    assert error.change == pytest.approx(1e-3, rel=1e-3)
    assert "G2 output 0" in error.reason
    assert "G3 output 0" in error.reason


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_other_dtypes(dtype: torch.dtype) -> None:
    (error,) = measured(Sines(same), lambda x: x.sin() @ x.T, X.to(dtype))
    assert error.before == error.after
    assert error.before == 0 if dtype is torch.float64 else error.before > torch.finfo(dtype).eps / 10
    (error,) = measured(Sines(lambda x, g: g.aten.mul.Tensor(g.aten.sin(x), 1.1)), lambda x: x.sin(), X.to(dtype))
    assert error.reason


def test_new_infinities_and_nan() -> None:
    (error,) = measured(Sines(lambda x, g: g.aten.div.Tensor(g.aten.sin(x), 0.0)), lambda x: x.sin(), X)
    assert "G1 output 0" in error.reason
    (error,) = measured(Sines(same), lambda x: (x * math.inf).sin(), X)
    assert error.reason == ""
    assert error.before == 0


def test_each_rewrite_is_measured_by_itself() -> None:
    """Also by what it changes at the outputs, with all others not made."""

    def function(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        first = x.sin()
        return first @ y, (first @ y).sin() * 1e-3

    def wrong_if_square(x: Node, g: GraphBuilder) -> Node:
        return larger(x, g) if x.meta["val"].shape == (5, 5) else through_cosine(x, g)

    rounded, wrong = measured(Sines(wrong_if_square), function, X, Y)
    assert rounded.reason == ""
    assert 0 < rounded.change < 1e-6
    assert wrong.reason
    assert wrong.change == pytest.approx(1e-3, rel=1e-3)
    product, shifted = X.sin() @ Y, (X + -math.pi / 2).cos() @ Y
    moved = [(shifted, product), (shifted.sin() * 1e-3, product.sin() * 1e-3)]
    sizes = [
        float((a.double() - b.double()).square().mean().sqrt() / b.double().square().mean().sqrt()) for a, b in moved
    ]
    assert rounded.change == pytest.approx(max(sizes), rel=1e-3)


def test_integers_and_several_results() -> None:
    class Chunks(Pass):
        def run(self, graph: Graph, context: PassContext) -> list[Rewrite]:
            (chunk,) = (n for n in graph.calls() if "split" in n.name or "chunk" in n.name)
            g = GraphBuilder(graph, chunk)
            return [replace(self.name, {chunk: g.aten.split_with_sizes(chunk.args[0], [2, 3], 0)}, g.made)]

    (error,) = measured(Chunks(), lambda x: tuple(part + 1 for part in x.split([2, 3])), torch.arange(5))
    assert (error.before, error.after, error.exact, error.change) == (0, 0, 0, 0)
    assert [gate.gate for gate in error.gates] == ["G0", "G0"]


def test_the_graph_runs_once_and_once_more_for_each_region_that_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = []

    def counted(graph: Graph, inputs: Any, watch: Any = None) -> Any:
        runs.append(len(graph.inputs) == 1 and watch is not None)
        return interpret(graph, inputs, watch)

    monkeypatch.setattr(local_error, "interpret", counted)
    measured(Sines(same), lambda x: x.sin().sin().sin(), X)
    assert sum(runs) == 1
    runs.clear()
    measured(Sines(through_cosine), lambda x: x.sin().sin().sin(), X)
    assert sum(runs) == 1 + 3


def test_values_are_held_no_longer_than_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    held = []

    class Counted(local_error._Flow):
        def __call__(self, node: Node, value: Any) -> Any:
            result = super().__call__(node, value)
            held.append(len(self._held))
            return result

    def deep(x: torch.Tensor) -> torch.Tensor:
        for _ in range(40):
            x = x.sin()
        return x

    monkeypatch.setattr(local_error, "_Flow", Counted)
    assert len(measured(Sines(same), deep, X)) == 40
    assert max(held) <= 2
    assert held[-1] == 0


def test_a_pass_of_the_default_pipeline_on_a_model() -> None:
    model, inputs = ZOO["gpt2-unmasked-eager"].model(), ZOO["gpt2-unmasked-eager"].inputs(2, 9)
    seen: list[dict[Rewrite, LocalError]] = []

    def note(result: PassResult) -> str:
        if isinstance(result.each, FuseAttention):
            seen.append(measure_rewrites(result, lambda: [t.clone() for t in inputs.values()]))
        return ""

    Pipeline(tuple(default_pipeline())).run(graph_of(model, **inputs), PassContext(), note)
    (found,) = seen
    assert len(found) == 2
    for error in found.values():
        assert error.reason == ""
        assert error.exact < 1e-12
        assert 1e-9 < error.after < 1e-6
