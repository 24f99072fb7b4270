"""Channels that matter least are pruned, and the others do what can be done of their work."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import txgraph
from tests.helpers import normal, only_reason
from tests.lossy.models import applied, batches, observed, spent
from tests.small import traced
from txgraph import PassContext
from txgraph.ir import interpret
from txgraph.passes.sparsity.prune_channels import PruneChannels
from txgraph.rewrite import LossyContext

Tensor = torch.Tensor
X = normal(2, 40, 16)
UP, BIAS, DOWN = normal(12, 16), normal(12), normal(8, 12)
HALF = PruneChannels(fraction=0.5)


def block(x: Tensor, up: Tensor, bias: Tensor, down: Tensor) -> Tensor:
    return F.linear(torch.relu(F.linear(x, up, bias)), down)


def hidden(up: Tensor, bias: Tensor) -> Tensor:
    return torch.relu(F.linear(X, up, bias))


def left_of(value: Tensor, exact: Tensor) -> float:
    return float((value - exact).norm() / exact.norm())


def test_those_go_that_add_least() -> None:
    """What a channel adds is its own size by the size of its column: neither of them alone decides."""
    up, down = UP.clone(), DOWN.clone()
    down[:, [1, 4, 7]] *= 1e-3
    up[[2, 5, 9]] *= 1e-3
    bias = BIAS.clone()
    bias[[2, 5, 9]] *= 1e-3
    down[:, 2] *= 1e6  # small, but read with a large weight
    graph, (rewrite,) = applied(
        PruneChannels(fraction=5 / 12), block, X, observed(hidden(up, bias)), up=up, bias=bias, down=down
    )
    stay = [0, 2, 3, 6, 8, 10, 11]
    assert graph.constants["up_kept"].equal(up[stay])
    assert graph.constants["bias_kept"].equal(bias[stay])
    assert rewrite.rule == "prune-channels"
    assert rewrite.values[0][1] == graph.outputs[0].name
    exact = block(X, up, bias, down)
    assert 0 < left_of(interpret(graph, [X])[0], exact) < 1e-2


def test_the_others_make_good_what_they_can() -> None:
    """A channel that is always twice another one is not missed, however much it added."""
    up, bias = UP.clone(), BIAS.clone()
    up[6:], bias[6:] = 2 * up[:6], 2 * bias[:6]
    graph, _ = applied(HALF, block, X, observed(hidden(up, bias)), up=up, bias=bias, down=DOWN)
    assert graph.constants["up_kept"].shape == (6, 16)
    exact = block(X, up, bias, DOWN)
    found = left_of(interpret(graph, [X])[0], exact)
    blind, _ = applied(HALF, block, X, None, up=up, bias=bias, down=DOWN)  # knows of no twins
    assert found < 0.5 * left_of(interpret(blind, [X])[0], exact)


def test_gates_and_activations_inside_of_linears() -> None:
    gate = normal(12, 16)

    def gated(x: Tensor, up: Tensor, gate: Tensor, down: Tensor) -> Tensor:
        return F.linear(F.silu(F.linear(x, gate)) * F.linear(x, up), down)

    graph, rewrites = applied(HALF, gated, X, up=UP, gate=gate, down=DOWN)
    assert len(rewrites) == 1
    assert {tuple(t.shape) for t in graph.constants.values()} == {(6, 16), (8, 6)}

    def fused(x: Tensor, up: Tensor, bias: Tensor, down: Tensor) -> Tensor:
        return F.linear(torch.ops.txgraph.linear_activation(x, up, bias, "gelu"), down)

    graph, rewrites = applied(HALF, fused, X, up=UP, bias=BIAS, down=DOWN)
    assert len(rewrites) == 1
    assert graph.count() == {"txgraph::linear_activation": 1, "linear": 1}


def test_left_alone() -> None:
    def read_twice(x: Tensor, up: Tensor, bias: Tensor, down: Tensor) -> tuple[Tensor, Tensor]:
        inner = torch.relu(F.linear(x, up, bias))
        return F.linear(inner, down), inner

    def mixed(x: Tensor, up: Tensor, bias: Tensor, down: Tensor) -> Tensor:
        return F.linear(torch.softmax(F.linear(x, up, bias), -1), down)

    for function in (read_twice, mixed):
        graph = traced(function, X, up=UP, bias=BIAS, down=DOWN)
        assert HALF.places(graph, LossyContext()) == {}
        assert HALF.run(graph, PassContext(lossy=LossyContext())) == []
    elsewhere = traced(block, X, up=UP, bias=BIAS, down=DOWN)
    assert PruneChannels(fraction=0.5, modules="encoder.*").run(elsewhere, PassContext(lossy=LossyContext())) == []


def test_what_is_too_little_is_declined() -> None:
    graph = traced(block, X, up=UP, bias=BIAS, down=DOWN)
    assert only_reason(PruneChannels(fraction=0.01), graph) == "1% of 12 units is none, or all"


@pytest.mark.parametrize("fraction", [0, 1, -0.5, 1.5])
def test_settings(fraction: float) -> None:
    with pytest.raises(ValueError, match="expected more than 0 and less than 1"):
        PruneChannels(fraction=fraction)


def test_by_hand() -> None:
    """In a pipeline, within a budget: every place is rewritten, and the user's model stays as it is."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 64), nn.GELU(), nn.Linear(64, 16)).eval()
    data = batches(width=16)
    by_hand = txgraph.default_pipeline().append(HALF)
    fast = spent(model, data, txgraph.Budget(relative_error=0.9), passes=by_hand)
    assert fast.report.budget is not None
    assert fast.report.budget.methods == {"50% of the channels pruned": 1}
    assert sorted(tuple(t.shape) for t in fast.graph_after.constants.values() if t.ndim > 1) == [(16, 32), (32, 16)]
    assert 0 < left_of(fast(data[0]), model(data[0]).detach()) < 0.9
    assert model[0].weight.shape == (64, 16)
