"""How far outputs are from those of the model in float64, over many calls."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch


@dataclass(frozen=True)
class LeafDistance:
    """Sums over the calls, of one output."""

    error: float = 0.0  # sum of squared differences
    size: float = 0.0  # sum of squares
    product: float = 0.0  # of both
    own: float = 0.0  # sum of squares of what is judged
    agreeing: int = 0
    places: int = 0

    @property
    def relative_error(self) -> float:
        """Root of error over size; infinite where something is not finite that should be."""
        if math.isnan(self.error):
            return math.inf
        return math.sqrt(self.error / self.size) if self.size else math.inf if self.error else 0.0


@dataclass(frozen=True)
class Distance:
    """Of the outputs of some calls from the model's own in float64.

    Every floating-point output counts by itself, and the worst one decides.
    """

    leaves: tuple[LeafDistance, ...] = ()

    @property
    def relative_error(self) -> float:
        """``||y - y64|| / ||y64||``; infinite where something is not finite that should be."""
        return max((leaf.relative_error for leaf in self.leaves), default=0.0)

    @property
    def sqnr_db(self) -> float:
        """Signal to noise in decibels; infinite where nothing differs."""
        error = self.relative_error
        return -20 * math.log10(error) if error else math.inf

    @property
    def top1_agreement(self) -> float:
        """The share of places whose largest element along the last axis is the same."""
        return min((leaf.agreeing / leaf.places for leaf in self.leaves if leaf.places), default=1.0)

    @property
    def cosine(self) -> float:
        """Of the angle between all values and all true ones."""
        return min(
            (leaf.product / math.sqrt(leaf.own * leaf.size) for leaf in self.leaves if leaf.own and leaf.size),
            default=1.0,
        )

    def plus(self, outputs: Sequence[Any], truth: Sequence[Any]) -> Distance:
        """With the outputs of one more call."""
        pairs = [
            (value, true)
            for value, true in zip(outputs, truth, strict=True)
            if isinstance(true, torch.Tensor) and true.is_floating_point() and true.numel()
        ]
        leaves = self.leaves or (LeafDistance(),) * len(pairs)
        return replace(self, leaves=tuple(_plus(leaf, *pair) for leaf, pair in zip(leaves, pairs, strict=True)))

    def to_dict(self) -> dict[str, float]:
        """The measures by their names."""
        return {name: getattr(self, name) for name in ("relative_error", "sqnr_db", "top1_agreement", "cosine")}

    def __str__(self) -> str:
        return (
            f"relative error {self.relative_error:.2e} ({self.sqnr_db:.1f} dB), "
            f"top-1 agreement {self.top1_agreement:.2%}, cosine {self.cosine:.6f}"
        )


def _plus(leaf: LeafDistance, value: torch.Tensor, truth: torch.Tensor) -> LeafDistance:
    y, t = value.double(), truth.double()
    counted = t.isfinite()  # -inf in logits that a mask wrote is no size
    if not bool((y.isfinite() == counted).all()):
        return replace(leaf, error=math.nan)
    agreeing, places = leaf.agreeing, leaf.places
    if t.ndim and t.shape[-1] > 1:
        same = y.argmax(-1) == t.argmax(-1)
        agreeing, places = agreeing + int(same.count_nonzero()), places + same.numel()
    y, t = (each.where(counted, 0.0) for each in (y, t))
    return LeafDistance(
        leaf.error + float((y - t).square().sum()),
        leaf.size + float(t.square().sum()),
        leaf.product + float((y * t).sum()),
        leaf.own + float(y.square().sum()),
        agreeing,
        places,
    )
