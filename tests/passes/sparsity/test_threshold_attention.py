"""Attention above a threshold: what its definition says, where it is tried, and what a budget makes of it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import txgraph
from tests.helpers import normal
from tests.lossy.models import applied
from tests.passes.sparsity.test_window_attention import Reader
from tests.small import graph_of, traced
from txgraph import PassContext
from txgraph.ir import interpret
from txgraph.ir.ops import threshold_attention
from txgraph.passes.sparsity.threshold_attention import ThresholdAttention
from txgraph.passes.sparsity.window_attention import WindowAttention
from txgraph.rewrite import LossyContext

Tensor = torch.Tensor
THRESHOLD = "txgraph::threshold_attention"
ABOVE = ThresholdAttention(threshold=0.1)
Q, K, V = normal(1, 4, 16, 8) * 3, normal(1, 2, 256, 8), normal(1, 2, 256, 8)
CAUSAL = torch.ones(16, 256, dtype=torch.bool).tril()
HIDDEN = torch.zeros(16, 256).masked_fill(~CAUSAL, -math.inf)
FORMS: dict[str, tuple[dict[str, Any], Tensor | None, Tensor]] = {  # options, mask, and what is added to scores
    "no mask": ({}, None, torch.zeros(16, 256)),
    "causal": ({"is_causal": True}, None, HIDDEN),
    "boolean": ({}, CAUSAL, HIDDEN),
    "a bias": ({}, normal(16, 256), normal(16, 256)),
    "scaled": ({"scale": 1.5}, None, torch.zeros(16, 256)),
}


def by_hand(scores: Tensor, threshold: float) -> Tensor:
    """Weights of scores, one by one."""
    weights = torch.zeros_like(scores)
    for row, given in zip(weights, scores, strict=True):
        for at, score in enumerate(given.tolist()):
            share = math.exp(score - float(given.max()))
            row[at] = 0.0 if share < threshold else share if share > 2 * threshold else 2 * (share - threshold)
    return weights / weights.sum(-1, keepdim=True)


@pytest.mark.parametrize(("options", "mask", "bias"), FORMS.values(), ids=FORMS)
def test_what_counts(options: dict[str, Any], mask: Tensor | None, bias: Tensor) -> None:
    def function(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, mask, enable_gqa=True, **options)

    def unmasked(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, enable_gqa=True, **options)

    inputs = [Q, K, V] if mask is None else [Q, K, V, mask]
    graph = traced(unmasked if mask is None else function, *inputs)
    (rewrite,) = ABOVE.run(graph, PassContext(lossy=LossyContext()))
    assert graph.count()[THRESHOLD] == 1
    assert rewrite.values[0][1] == graph.outputs[0].name
    result = interpret(graph, inputs)[0]
    scores = Q[0, 3].double() @ K[0, 1].double().T * options.get("scale", 8**-0.5) + bias
    torch.testing.assert_close(result[0, 3].double(), by_hand(scores, 0.1) @ V[0, 1].double(), rtol=1e-4, atol=1e-5)


def test_it_is_continuous() -> None:
    """A weight at the threshold, or at twice of it, is not worth more a little above: a gate would see that."""
    for share in (0.1, 0.2):
        near = [math.log(share) * (1 + each) for each in (-1e-6, 0.0, 1e-6)]
        scores = torch.tensor([[0.0, at] for at in near]).reshape(3, 1, 1, 2)
        value = torch.tensor([0.0, 1.0]).reshape(1, 1, 2, 1).expand(3, 1, 2, 1)
        below, there, above = threshold_attention(
            torch.ones(3, 1, 1, 1), scores.transpose(2, 3), value, None, False, 1.0, False, 0.1
        ).flatten()
        assert float((below - there).abs() + (above - there).abs()) < 2e-5


def test_no_threshold_is_ordinary_attention() -> None:
    for mask in (None, CAUSAL, torch.zeros_like(CAUSAL)):
        ours = threshold_attention(Q, K, V, mask, False, None, True, 0.0)
        torch.testing.assert_close(ours, F.scaled_dot_product_attention(Q, K, V, mask, enable_gqa=True))


def attend(**options: Any) -> Any:
    return lambda x: F.scaled_dot_product_attention(x, x, x, **options)


X = normal(1, 2, 256, 8)
LEFT: dict[str, Any] = {
    "few keys": (attend(), X[:, :, :255]),
    "few queries": (lambda x: F.scaled_dot_product_attention(x[:, :, :7], x, x), X),
    "double": (attend(), X.double()),
    "three axes": (attend(), X[0]),
    "windows": (
        lambda x: torch.ops.txgraph.window_attention(x, x, x, torch.arange(256), torch.arange(256) + 1, 0, 0.3, False),
        X,
    ),
}


@pytest.mark.parametrize(("function", "x"), LEFT.values(), ids=LEFT)
def test_what_is_left(function: Any, x: Tensor) -> None:
    graph = traced(function, x)
    assert not ABOVE.places(graph, LossyContext())
    assert ABOVE.run(graph, PassContext(lossy=LossyContext())) == []


def test_settings() -> None:
    for wrong in (0.0, -0.1, 0.51, math.nan):
        with pytest.raises(ValueError, match=r"expected above 0, and 0\.5 at most"):
            ThresholdAttention(threshold=wrong)
    assert ABOVE.label == "attention above 0.1 of the largest"
    assert ABOVE.name == "threshold-attention"


def test_it_competes_with_windows() -> None:
    """Both know an attention by the same place: it gets one of them."""
    graph = graph_of(Reader(), normal(1, 256, 16))
    lossy = LossyContext()
    assert ABOVE.places(graph, lossy) == WindowAttention(window=12).places(graph, lossy)
    assert len(ABOVE.places(graph, lossy)) == 2
    assert len(ThresholdAttention(threshold=0.1, modules="*.1").places(graph, lossy)) == 1


def test_it_is_idempotent() -> None:
    graph, _ = applied(ABOVE, attend(), X)
    assert ABOVE.run(graph, PassContext(lossy=LossyContext())) == []


@pytest.mark.parametrize("backend", ["reference", "inductor"])
def test_under_a_budget(backend: str) -> None:
    """As compiled, it is what the interpreted graph is, and within the budget on other data."""
    torch.manual_seed(1)
    data = [torch.randn(2, 256, 16) for _ in range(6)]
    fast = txgraph.optimize(
        Reader(),
        (data[0],),
        passes=txgraph.default_pipeline().append(ThresholdAttention(threshold=1e-2)),
        calibration=data,
        budget=txgraph.Budget(relative_error=0.02),
        backend=backend,
    )
    spending = fast.report.budget
    assert spending is not None
    assert sorted(spent.module for spent in spending.spent) == ["layers.0", "layers.1"]
    assert fast.graph_after.count()[THRESHOLD] == 2
    model = Reader()
    other = torch.randn(2, 256, 16)
    exact = model(other).detach()
    error = (fast(other).detach() - exact).norm() / exact.norm()
    assert 0 < float(error) < 0.02


def test_a_threshold_that_breaks_the_budget() -> None:
    data = [torch.randn(2, 256, 16) for _ in range(4)]
    fast = txgraph.optimize(
        Reader(),
        (data[0],),
        passes=txgraph.default_pipeline().append(ThresholdAttention(threshold=0.5)),
        calibration=data,
        budget=txgraph.Budget(relative_error=1e-3),
        backend="reference",
    )
    assert fast.report.budget is not None
    assert not fast.report.budget.spent
