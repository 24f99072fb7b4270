"""How far outputs are from those of the model in float64, over many calls."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any

import torch


@dataclass(frozen=True)
class LeafDistance:
    """Of one output, over the calls.

    Attributes:
        errors, sizes: of each sample, a row along the first dimension of a call, the sum of squared differences,
            and of squares.
        product, own: sums of products with what is true, and of squares of what is judged.
        agreeing, places: places whose largest element is the same, and all.
    """

    errors: tuple[float, ...] = ()
    sizes: tuple[float, ...] = ()
    product: float = 0.0
    own: float = 0.0
    agreeing: int = 0
    places: int = 0

    @property
    def relative_error(self) -> float:
        """Root of error over size; infinite where something is not finite that should be."""
        return _ratio(sum(self.errors), self.size)

    @property
    def size(self) -> float:
        """Sum of squares of what is true, over all calls."""
        return sum(self.sizes)

    @property
    def expected(self) -> float:
        """What the relative error of as many other samples hardly exceeds; see :attr:`Distance.expected`."""
        n, size, error = len(self.errors), self.size, sum(self.errors)
        if n < 2 or not size or not error or math.isnan(error):
            return self.relative_error
        ratio = error / size
        spread = sum((e - ratio * s) ** 2 for e, s in zip(self.errors, self.sizes, strict=True))
        deviation = math.sqrt(n / (n - 1) * spread) / error  # of the logarithm of the ratio
        bound = student(n - 1) * math.sqrt(2) * deviation  # two sets of samples differ: these and the others
        return math.sqrt(ratio) * math.exp(min(bound / 2, 700.0))


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
    def expected(self) -> float:
        """The relative error that as many other samples of the same kind exceed about one time in twenty.

        From how much these samples, the rows of all calls, differ; of a single one it is its own. The bound is
        symmetric for the logarithm of the error, since errors of samples are skewed.

        source: the ratio estimator and its variance: Cochran 1977, "Sampling techniques", section 2.11
        """
        return max((leaf.expected for leaf in self.leaves), default=0.0)

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
        names = ("relative_error", "expected", "sqnr_db", "top1_agreement", "cosine")
        return {name: getattr(self, name) for name in names}

    def __str__(self) -> str:
        return (
            f"relative error {self.relative_error:.2e} ({self.sqnr_db:.1f} dB), "
            f"top-1 agreement {self.top1_agreement:.2%}, cosine {self.cosine:.6f}"
        )


def _plus(leaf: LeafDistance, value: torch.Tensor, truth: torch.Tensor) -> LeafDistance:
    y, t = value.double(), truth.double()
    counted = t.isfinite()  # -inf in logits that a mask wrote is no size
    if not bool((y.isfinite() == counted).all()):
        return replace(leaf, errors=(*leaf.errors, math.nan), sizes=(*leaf.sizes, 0.0))
    agreeing, places = leaf.agreeing, leaf.places
    if t.ndim and t.shape[-1] > 1:
        same = y.argmax(-1) == t.argmax(-1)
        agreeing, places = agreeing + int(same.count_nonzero()), places + same.numel()
    y, t = (each.where(counted, 0.0) for each in (y, t))
    return LeafDistance(
        (*leaf.errors, *_by_row((y - t).square())),
        (*leaf.sizes, *_by_row(t.square())),
        leaf.product + float((y * t).sum()),
        leaf.own + float(y.square().sum()),
        agreeing,
        places,
    )


def _by_row(squares: torch.Tensor) -> list[float]:
    sums: list[float] = squares.flatten(1).sum(1).tolist() if squares.ndim > 1 else [float(squares.sum())]
    return sums


def _ratio(error: float, size: float) -> float:
    if math.isnan(error):
        return math.inf
    return math.sqrt(error / size) if size else math.inf if error else 0.0


def student(freedom: int) -> float:
    """The 95 % quantile of Student's t distribution, for a number of degrees of freedom from 1 on.

    source: Abramowitz and Stegun 1964, 26.7.5; up to 3 degrees, where that is off, the exact values
    """
    if freedom <= 3:
        return (6.31375, 2.91999, 2.35336)[freedom - 1]
    x = NormalDist().inv_cdf(0.95)
    terms = (
        (x**3 + x) / 4,
        (5 * x**5 + 16 * x**3 + 3 * x) / 96,
        (3 * x**7 + 19 * x**5 + 17 * x**3 - 15 * x) / 384,
        (79 * x**9 + 776 * x**7 + 1482 * x**5 - 1920 * x**3 - 945 * x) / 92160,
    )
    return x + sum(term / float(freedom) ** power for power, term in enumerate(terms, 1))
