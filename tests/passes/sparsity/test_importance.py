"""Importance is what it is defined to be on data; the refit is what least squares gives."""

from __future__ import annotations

import pytest
import torch

from tests.helpers import normal
from txgraph.passes.sparsity.importance import channel_importance, left_over, refit, unit_importance

H = normal(500, 12, dtype=torch.float64) @ normal(12, 12, dtype=torch.float64)  # 500 tokens, correlated channels
W = normal(5, 12, dtype=torch.float64)
C = H.t() @ H / len(H)
KEPT = torch.tensor([0, 2, 3, 7, 11])
EXACT = {"rtol": 1e-9, "atol": 1e-9}  # float64 sums of 500 terms


def test_channels() -> None:
    alone = torch.stack([(H[:, j : j + 1] @ W[:, j : j + 1].t()).square().sum(1).mean() for j in range(12)])
    torch.testing.assert_close(channel_importance(C.diagonal(), W), alone, **EXACT)
    torch.testing.assert_close(channel_importance(C.diagonal(), W, W), 2 * alone, **EXACT)


def test_units() -> None:
    labels = torch.arange(3).repeat_interleave(4)
    alone = torch.stack([(H[:, u] @ W[:, u].t()).square().sum(1).mean() for u in torch.arange(12).view(3, 4)])
    torch.testing.assert_close(unit_importance(C, labels, W), alone, **EXACT)
    torch.testing.assert_close(unit_importance(C, labels, W, 2 * W), 5 * alone, **EXACT)
    summed = channel_importance(C.diagonal(), W).view(3, 4).sum(1)
    torch.testing.assert_close(unit_importance(C.diagonal(), labels, W), summed, **EXACT)


def test_refit_is_least_squares() -> None:
    wanted = torch.linalg.lstsq(H[:, KEPT], H @ W.t()).solution.t()
    new = refit(W, C, KEPT, damping=0.0)
    torch.testing.assert_close(new, wanted, rtol=1e-7, atol=1e-7)  # the normal equations square the condition number
    error = (H @ W.t() - H[:, KEPT] @ new.t()).square().sum(1).mean()
    assert left_over(W, new, C, KEPT) == pytest.approx(float(error), rel=1e-8)
    assert left_over(W, new, C, KEPT) < 0.7 * left_over(W, W[:, KEPT], C, KEPT)
    for nearby in (new * 1.01, new + 0.01):
        assert left_over(W, nearby, C, KEPT) > left_over(W, new, C, KEPT)


def test_damping_stays_near_the_weight() -> None:
    far = [(refit(W, C, KEPT, damping) - W[:, KEPT]).norm() for damping in (0.0, 1e-3, 1.0, 1e6)]
    assert far == sorted(far, reverse=True)
    assert far[-1] < 1e-3


def test_channels_that_never_differ() -> None:
    """Without damping the system has no solution; with it, one channel does the work of both."""
    h = torch.cat([H[:, :4], H[:, :1], H[:, 5:]], 1)
    c, kept = h.t() @ h / len(h), torch.tensor([0, 1, 2, 3, 4])
    new = refit(W, c, kept, damping=1e-8)
    assert left_over(W, new, c, kept) <= left_over(W, W[:, kept], c, kept)
    everything = refit(W.float(), C.float(), torch.arange(12))
    torch.testing.assert_close(everything, W, rtol=1e-4, atol=1e-4)  # C in float32
    assert everything.dtype is torch.float64


def test_dead_channels_are_not_important() -> None:
    moments, weight = C.diagonal().clone(), W.clone()
    moments[3], weight[:, 5] = 0, 0
    assert channel_importance(moments, weight).eq(0).nonzero().flatten().tolist() == [3, 5]
