"""Two lossy passes at one place: what the first makes, in the form of the second."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tests.helpers import normal
from tests.small import traced
from txgraph import PassContext, Rewrite
from txgraph.ir import Graph, check_spec, interpret
from txgraph.lossy.observe import observe
from txgraph.passes import Int8, LowRank, PruneChannels, Then
from txgraph.rewrite import LossyContext, LossyPass

Tensor = torch.Tensor
X, UP, DOWN = normal(4, 6, 16), normal(32, 16), normal(16, 32)
WEIGHTS = {"u0": UP, "d0": DOWN, "u1": UP.flip(0), "d1": DOWN.flip(0)}
HALF = PruneChannels(fraction=0.5)
BOTH = Then(HALF, Int8())


def blocks(x: Tensor, u0: Tensor, d0: Tensor, u1: Tensor, d1: Tensor) -> Tensor:
    for up, down in ((u0, d0), (u1, d1)):
        x = x + F.linear(F.relu(F.linear(x, up)), down)
    return x


def one(x: Tensor, u: Tensor) -> Tensor:
    return F.linear(x, u)


def seeing(graph: Graph) -> LossyContext:
    """What flows is observed in whatever graph asks."""
    return LossyContext(observe=lambda asked, nodes: observe(asked, nodes, [[X]]))


def rewritten(each: LossyPass, graph: Graph, lossy: LossyContext) -> tuple[Graph, list[Rewrite]]:
    after = graph.copy()
    rewrites = each.run(after, PassContext(lossy=lossy))
    after.eliminate_dead_code()
    check_spec(after, graph)
    return after, rewrites


def by_hand(function: Callable[..., Any], each: LossyPass, **weights: Tensor) -> Graph:
    """The two passes as two runs."""
    assert isinstance(each, Then)
    graph = traced(function, X, **weights)
    lossy = seeing(graph)
    return rewritten(each.second, rewritten(each.first, graph, lossy)[0], lossy)[0]


def test_both_are_done_and_are_one_rewrite() -> None:
    graph = traced(blocks, X, **WEIGHTS)
    after, rewrites = rewritten(BOTH, graph, seeing(graph))
    shapes = sorted(tuple(t.shape) for t in after.constants.values() if t.dtype is torch.int8)
    assert shapes == [(16, 16)] * 4  # half of the 32 channels are left
    assert torch.equal(interpret(after, [X])[0], interpret(by_hand(blocks, BOTH, **WEIGHTS), [X])[0])
    assert [rewrite.rule for rewrite in rewrites] == ["then", "then"]
    names = {node.name for node in after.nodes}
    for rewrite in rewrites:
        assert names.issuperset(rewrite.made)
        assert names.isdisjoint(rewrite.removed)
        assert all(new in names for _, new in rewrite.values)


def test_a_rank_and_then_8_bits() -> None:
    thin = Then(LowRank(rank=4), Int8())
    graph = traced(one, X, u=UP)
    after, (rewrite,) = rewritten(thin, graph, seeing(graph))
    assert sorted(tuple(t.shape) for t in after.constants.values() if t.dtype is torch.int8) == [(4, 16), (32, 4)]
    assert torch.equal(interpret(after, [X])[0], interpret(by_hand(one, thin, u=UP), [X])[0])
    assert rewrite.root not in {node.name for node in after.nodes}


def test_a_place_is_the_same_with_and_without_the_others() -> None:
    """What is prepared does not depend on which places were chosen when it was."""
    graph = traced(blocks, X, **WEIGHTS)
    lossy = seeing(graph)
    second = list(BOTH.places(graph, lossy).values())[1]
    alone, (rewrite,) = rewritten(BOTH, graph, LossyContext(lossy.observe, chosen={(BOTH, second)}))
    together, _ = rewritten(BOTH, graph, lossy)
    made = [t for t in alone.constants.values() if t.dtype is torch.int8]
    assert len(made) == 2
    assert all(any(torch.equal(t, other) for other in together.constants.values()) for t in made)
    assert rewrite.rule == "then"


def test_it_is_known_by_what_it_is_made_of() -> None:
    assert BOTH.label == "50% of the channels pruned, then int8, migration 0.5"
    assert BOTH.parts == (HALF, Int8())
    assert HALF.parts == ()


@pytest.mark.parametrize("width", [1, 16])
def test_what_the_first_leaves_alone_stays(width: int) -> None:
    graph = traced(one, X, u=UP[:width])
    after, rewrites = rewritten(BOTH, graph, seeing(graph))
    assert rewrites == []
    assert torch.equal(interpret(after, [X])[0], one(X, UP[:width]))
