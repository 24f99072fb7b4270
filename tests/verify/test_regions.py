"""What a rewrite took out and put in, as two graphs: the values that flow through the old part are the graph's own."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import nn
from torch.fx import Node
from torch.utils import _pytree as pytree

from tests.small import bits, graph_of, traced
from tests.test_pipeline import EVERY_PASS, GENEROUS, Mixed
from tests.zoo import ZOO
from txgraph import Pass, PassContext, Pipeline
from txgraph.ir import Graph, GraphBuilder, interpret, op_name
from txgraph.passes.fold.combine_constant_terms import CombineConstantTerms
from txgraph.passes.fold.eliminate_common_subexpressions import EliminateCommonSubexpressions
from txgraph.pipeline import PassResult
from txgraph.rewrite import Rewrite, replace
from txgraph.verify.gates import check_gates
from txgraph.verify.regions import Region, changed_regions

X = torch.linspace(-1, 1, 12).reshape(3, 4)


def change(each: Pass, graph: Graph) -> tuple[Graph, list[Region], list[Rewrite]]:
    after = graph.copy()
    rewrites = each.run(after, GENEROUS)
    after.eliminate_dead_code()
    return after, changed_regions(graph, after, rewrites), rewrites


@functools.cache
def example(name: str) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    if name == "mixed":
        return Mixed(), {"x": torch.randn(2, 40, 8, generator=torch.Generator().manual_seed(0))}
    return ZOO[name].model(), ZOO[name].inputs(2, 12)


@functools.cache
def results(name: str) -> list[tuple[str, PassResult]]:
    """What each pass of the default pipeline made of a model."""
    found: list[tuple[str, PassResult]] = []

    def note(result: PassResult) -> str:
        found.append((result.each.name, result))
        return ""

    model, inputs = example(name)
    Pipeline(tuple(EVERY_PASS)).run(graph_of(model, **inputs), GENEROUS, note)
    return found


def flow(graph: Graph, inputs: list[torch.Tensor]) -> dict[str, Any]:
    """Every value of a graph."""
    values: dict[str, Any] = {}

    def note(node: Node, value: Any) -> Any:
        values[node.name] = value
        return value

    interpret(graph, inputs, note)
    return values


@pytest.mark.parametrize("name", ["bert-eager", "gpt2-unmasked-eager", "llama-unmasked-eager", "t5-eager", "mixed"])
def test_both_parts_are_the_graphs_own(name: str) -> None:
    _, inputs = example(name)
    regions = 0
    for rule, result in results(name):
        before = flow(result.before, list(inputs.values()))
        for region in changed_regions(result.before, result.after, result.rewrites):
            regions += 1
            old = [before[value] for value in region.values]
            left = interpret(region.left, [before[value] for value in region.left_inputs])
            right = interpret(region.right, [before[value] for value in region.right_inputs])
            for a, b in zip(pytree.tree_leaves(old), pytree.tree_leaves(left), strict=True):
                assert torch.equal(bits(a), bits(b)), (rule, region.rewrites)
            assert not [g for g in check_gates(right, old, old) if g.gate in ("G0", "G1") and not g.passed]
            assert {r.root for r in region.rewrites} <= {r.root for r in result.rewrites}
            assert set(region.right.constants) <= set(result.after.constants)
        named = [rewrite for rewrite in result.rewrites if rewrite.values]
        assert named or rule == "eliminate-dead-code", rule
    assert regions > 10


def test_what_reads_another_value_is_compared_from_there() -> None:
    """The new part reads x, the old one what is computed from it: the way between them belongs to the old part."""

    class Shorten(Pass):
        def run(self, graph: Graph, context: PassContext) -> list[Rewrite]:
            (exp,) = (n for n in graph.calls() if op_name(n) == "exp")
            g = GraphBuilder(graph, exp)
            return [replace(self.name, {exp: g.aten.add(graph.inputs[0], graph.inputs[0])}, g.made)]

    _, (region,), _ = change(Shorten(), traced(lambda x: x.sin().cos().exp(), X))
    assert region.left.count() == {"sin": 1, "cos": 1, "exp": 1}
    assert region.right.count() == {"add": 1}
    assert region.left_inputs == region.right_inputs == ("x",)


def test_rewrites_that_build_on_one_another_are_one_region() -> None:
    class Twice(Pass):
        def run(self, graph: Graph, context: PassContext) -> list[Rewrite]:
            made = []
            for name in ("sin", "cos"):
                (node,) = (n for n in graph.calls() if op_name(n) == name)
                g = GraphBuilder(graph, node)
                other = getattr(g.aten, {"sin": "cos", "cos": "exp"}[name])
                made.append(replace(self.name, {node: other(node.args[0])}, g.made))
            return made

    graph = traced(lambda x, y: (x.sin() + 1, y.tan()), X, X)
    after, (region,), rewrites = change(Twice(), graph)
    assert after.count() == {"add": 1, "exp": 1, "tan": 1}
    assert region.rewrites == tuple(rewrites)
    assert (region.left.count(), region.right.count()) == ({"sin": 1}, {"exp": 1})


def test_an_equal_value_that_was_there_already() -> None:
    _, (region,), _ = change(EliminateCommonSubexpressions(), traced(lambda x: x.sin() + x.sin().cos(), X))
    assert region.left.count() == {"sin": 1}
    assert region.right.count() == {}
    assert region.left_inputs == ("x",)
    assert region.right_inputs == ("sin",)


def test_a_sum_whose_terms_move() -> None:
    """Between the first term and the end of the sum a term is missing: only the end is compared."""
    graph = traced(lambda x, y, a, b: ((x + a) + y + b).tanh(), X, X, a=X + 2, b=X - 3)
    _, (region,), _ = change(CombineConstantTerms(), graph)
    assert len(region.values) == 1
    assert region.left.count() == {"add": 3}
    assert region.right.count() == {"add": 2}


def test_rewrites_without_values_are_in_no_region() -> None:
    graph = traced(lambda x: x.sin(), X)
    (sin,) = graph.calls()
    assert changed_regions(graph, graph.copy(), [Rewrite.of("mine", [sin])]) == []


def test_a_value_that_nothing_uses_any_more() -> None:
    class Forget(Pass):
        def run(self, graph: Graph, context: PassContext) -> list[Rewrite]:
            cos, sin = graph.calls()[::-1]
            g = GraphBuilder(graph, sin)
            first = replace(self.name, {sin: g.aten.tan(sin.args[0])}, g.made)
            cos.update_arg(0, graph.inputs[0])
            return [first]

    assert change(Forget(), traced(lambda x: x.sin().cos(), X))[1] == []
