"""Heads that matter least are pruned; heads that share keys and values go together."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tests.helpers import normal, only_reason
from tests.lossy.models import applied, observed
from tests.passes.sparsity.test_heads import MODELS as MODELS_AND_INPUTS
from tests.passes.sparsity.test_heads import OUT, K, Q, V, X, grouped, model, one_key_head, plain, projected
from tests.small import graph_of, traced
from txgraph import PassContext
from txgraph.ir import interpret
from txgraph.passes.sparsity.prune_heads import PruneHeads
from txgraph.rewrite import LossyContext

Tensor = torch.Tensor
HALF = PruneHeads(fraction=0.5)
ALL = {"q": Q, "k": K, "v": V, "out": OUT}


def read(v: Tensor) -> Tensor:
    """What the output projection of the plain attention reads."""
    return F.scaled_dot_product_attention(*projected(X, Q, K, v)).transpose(1, 2).reshape(2, 5, -1)


def left_of(value: Tensor, exact: Tensor) -> float:
    return float((value - exact).norm() / exact.norm())


def test_those_go_that_add_least() -> None:
    """Head 1 is read with small weights, head 3 has small values; 2 has these, but is read with large weights."""
    out, v = OUT.clone(), V.clone()
    out[:, 6:12] *= 1e-3
    v[18:] *= 1e-3
    v[12:18] *= 1e-3
    out[:, 12:18] *= 1e4
    graph, (rewrite,) = applied(HALF, plain, X, observed(read(v)), **{**ALL, "v": v, "out": out})
    assert graph.constants["v_kept"].equal(torch.cat([v[:6], v[12:18]]))
    assert graph.constants["q_kept"].equal(torch.cat([Q[:6], Q[12:18]]))
    assert rewrite.rule == "prune-heads"
    assert 0 < left_of(interpret(graph, [X])[0], plain(X, Q, K, v, out)) < 1e-2


def test_the_others_make_good_what_they_can() -> None:
    """Two heads that are copies of the others are not missed."""
    twins = {name: torch.cat([weight[:12], weight[:12]]) for name, weight in (("q", Q), ("k", K), ("v", V))}
    x = normal(8, 16, 8)

    def longer(x: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor) -> Tensor:
        attention = F.scaled_dot_product_attention(*projected(x, q, k, v))
        return F.linear(attention.transpose(1, 2).reshape(8, 16, -1), out)

    hidden = longer(x, twins["q"], twins["k"], twins["v"], torch.eye(24))
    out = OUT.clone()
    out[:, 12:] *= 0.2  # these go
    exact = longer(x, twins["q"], twins["k"], twins["v"], out)
    graph, rewrites = applied(HALF, longer, x, observed(hidden), **twins, out=out)
    assert len(rewrites) == 1
    blind, _ = applied(HALF, longer, x, None, **twins, out=out)
    found, unknown = (left_of(interpret(each, [x])[0], exact) for each in (graph, blind))
    assert found < 0.5 * unknown


def test_groups_go_as_a_whole() -> None:
    graph, _ = applied(HALF, grouped, X, **{**ALL, "k": K[:12], "v": V[:12]})
    assert {name: tuple(t.shape) for name, t in graph.constants.items()} == {
        "q_kept": (12, 8),
        "k_kept": (6, 8),
        "v_kept": (6, 8),
        "out_kept": (6, 12),
    }


@pytest.mark.parametrize("name", ["BERT", "Llama"])
def test_models(name: str) -> None:
    graph = graph_of(model(name), **MODELS_AND_INPUTS[name][1])
    assert len(HALF.places(graph, LossyContext())) == 1
    inputs = [*MODELS_AND_INPUTS[name][1].values()]
    before = interpret(graph, inputs)[0]
    assert len(HALF.run(graph, PassContext(lossy=LossyContext()))) == 1
    after = interpret(graph, inputs)[0]
    assert after.shape == before.shape
    assert 0 < left_of(after, before) < 1


def test_left_alone() -> None:
    """Where keys belong to no head, and where too few heads are there for the fraction."""
    one = traced(one_key_head, X, q=Q, k=K[:6], v=V[:6], out=OUT)
    assert HALF.places(one, LossyContext()) == {}
    assert only_reason(PruneHeads(fraction=0.1), traced(plain, X, **ALL)) == "10% of 4 units is none, or all"
