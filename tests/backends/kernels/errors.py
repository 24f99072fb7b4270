"""How far a kernel may be from float64."""

from __future__ import annotations

from collections.abc import Callable

import torch


def as_near(ours: torch.Tensor, function: Callable[..., torch.Tensor], *operands: torch.Tensor | None) -> None:
    """Our result is about as near to float64 as the same in float32: in the mean, and at the worst element."""
    assert ours.dtype is torch.float32
    exact = function(*(t.double() if t is not None and t.is_floating_point() else t for t in operands))
    error, eager = (ours - exact).abs(), (function(*operands) - exact).abs()
    assert ours.shape == exact.shape
    if exact.numel():
        assert error.mean() <= 2 * eager.mean() + 1e-8
        assert error.max() <= 4 * eager.max() + 1e-7
