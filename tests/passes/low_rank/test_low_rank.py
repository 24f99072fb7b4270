"""Weights as products of thin ones: the nearest of their rank, and found where there is such a rank."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tests.helpers import normal
from tests.lossy.models import applied, observed
from txgraph.ir import interpret
from txgraph.passes.low_rank.low_rank import LowRank

Tensor = torch.Tensor
SHAPES = [(40, 64), (64, 40), (48, 48)]


@pytest.mark.parametrize(("rows", "columns"), SHAPES)
@pytest.mark.parametrize("seen", [True, False])
def test_no_product_of_that_rank_is_nearer(rows: int, columns: int, seen: bool) -> None:
    weight = normal(rows, columns)
    x = normal(4000, columns) * torch.linspace(0.2, 3, columns)
    prepared = LowRank(rank=6).prepare([weight], observed(x) if seen else None)
    assert not isinstance(prepared, str)
    assert prepared["V"].shape == (6, columns)
    assert prepared["U0"].shape == (rows, 6)
    root = torch.eye(columns, dtype=torch.float64)
    if seen:
        moments = (x.T @ x / len(x)).double()
        root = torch.linalg.cholesky(moments)
    best = torch.linalg.svdvals(weight.double() @ root)[6:].norm()
    error = ((weight - prepared["U0"] @ prepared["V"]).double() @ root).norm()
    assert float(error) <= 1.02 * float(best)  # moments are drawn to their diagonal a little
    assert float(error) >= 0.999 * float(best)


def test_a_rank_that_is_there_is_found() -> None:
    weight = normal(128, 16) @ normal(16, 96) + 1e-3 * normal(128, 96)
    prepared = LowRank(error=0.01).prepare([weight], None)
    assert not isinstance(prepared, str)
    assert prepared["V"].shape == (16, 96)
    assert (
        LowRank(error=0.01).prepare([normal(128, 96)], None)
        == "rank 96 of [128, 96] saves less than 10% of its numbers"
    )


def test_in_a_graph() -> None:
    x, weight, bias = normal(2, 5, 64), normal(48, 8) @ normal(8, 64), normal(48)
    graph, rewrites = applied(LowRank(rank=8), lambda x, w, b: F.linear(x, w, b), x, w=weight, b=bias)
    assert len(rewrites) == 1
    assert graph.count() == {"linear": 2}
    torch.testing.assert_close(interpret(graph, [x])[0], F.linear(x, weight, bias), rtol=1e-4, atol=1e-4)
    graph, _ = applied(
        LowRank(rank=8), lambda x, w, b: torch.ops.txgraph.linear_activation(x, w, b, "relu"), x, w=weight, b=bias
    )
    torch.testing.assert_close(interpret(graph, [x])[0], F.linear(x, weight, bias).relu(), rtol=1e-4, atol=1e-4)


def test_linears_of_one_input_share_the_thin_one() -> None:
    x, inner = normal(2, 5, 64), normal(8, 64)
    weights = {"q": normal(32, 8) @ inner, "k": normal(16, 8) @ inner}
    graph, _ = applied(
        LowRank(rank=8), lambda x, q, k: torch.ops.txgraph.linears(x, [q, k], [None, None]), x, **weights
    )
    assert graph.count() == {"linear": 3}
    for value, weight in zip(interpret(graph, [x]), weights.values(), strict=True):
        torch.testing.assert_close(value, F.linear(x, weight), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({}, "give either rank or error"), ({"rank": 3, "error": 0.1}, "either"), ({"rank": 0}, "positive rank")],
)
def test_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LowRank(**settings)
