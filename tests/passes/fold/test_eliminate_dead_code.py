"""What no output depends on is removed."""

from __future__ import annotations

import torch

from tests.helpers import normal
from tests.small import apply, graph_of, module, traced
from txgraph.ir import Graph, GraphBuilder, interpret
from txgraph.passes.fold.eliminate_dead_code import EliminateDeadCode

X = normal(2, 4)


def with_dead_code() -> Graph:
    graph = traced(lambda x: x.exp(), X)
    g = GraphBuilder(graph, graph.output)
    g.aten.sin(g.aten.neg(graph.inputs[0]))
    return graph


def test_unused_operators_and_what_only_they_use() -> None:
    after, rewrites = apply(EliminateDeadCode(), with_dead_code())
    assert after.count() == {"exp": 1}
    assert [r.removed for r in rewrites] == [("sin_default",), ("neg_default",)]
    assert torch.equal(interpret(after, [X])[0], X.exp())
    assert apply(EliminateDeadCode(), after)[1] == []


def test_what_is_used_stays() -> None:
    graph = traced(lambda x: (x.exp().neg(), x.sin()), X)
    assert apply(EliminateDeadCode(), graph)[1] == []


def test_unused_inputs_and_what_is_written_back_stay() -> None:
    model = module(lambda x, unused: (model.count.add_(1), x.exp())[1])
    model.register_buffer("count", torch.zeros(2))
    after, rewrites = apply(EliminateDeadCode(), graph_of(model, X, X))
    assert rewrites == []
    assert len(after.inputs) == 2
    assert after.count() == {"add": 1, "exp": 1}


def test_what_draws_random_numbers_or_writes_stays() -> None:
    for target in (torch.ops.aten.bernoulli.default, torch.ops.aten.exp_.default):
        graph = traced(lambda x: x.exp(), X)
        with graph.fx.inserting_before(graph.output):
            node = graph.fx.call_function(target, (graph.inputs[0],))
        node.meta["val"] = graph.inputs[0].meta["val"]
        assert EliminateDeadCode().run(graph, None) == []
