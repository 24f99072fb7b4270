"""How far a model may move from itself."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real

from torch import nn

from txgraph.lossy.distance import Distance


@dataclass(frozen=True)
class Budget:
    """Limits that an optimized model keeps, on calibration data that did not choose what was done to it.

    Every limit that is given holds, on every floating-point output; one at least is needed. ``y`` is the optimized
    model's output, ``y64`` the model's own in float64.

    Attributes:
        relative_error: of ``||y - y64|| / ||y64||``, over all calls together.
        sqnr_db: at least so many decibels of signal to noise, ``-20 log10`` of the same.
        top1_agreement: the share of places whose largest element along the last axis stays the largest, at least.
        metric: scores a model, such as the accuracy on data of your own; higher is better. Called with the model, and
            with candidates that are called as the model is. max_drop: what the score may lose.
        seconds: for the search, about: the best found by then is used.
        seed: decides which calls of the calibration are held out.

    Raises:
        ValueError: no limit, or one that no model could keep, or that is none.

    >>> Budget(relative_error=0.02)
    Budget(relative_error=0.02)
    """

    relative_error: float | None = None
    sqnr_db: float | None = None
    top1_agreement: float | None = None
    metric: Callable[[nn.Module], float] | None = None
    max_drop: float | None = None
    seconds: float = 600.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("relative_error", "sqnr_db", "top1_agreement", "max_drop", "seconds"):
            value = getattr(self, name)
            if value is None:
                continue
            if type(value) is bool or not isinstance(value, Real):
                raise TypeError(f"Budget: {name} must be a number, got {type(value).__name__}")
            if not math.isfinite(value) or value < 0 or (value == 0 and name != "max_drop"):
                lowest = "0 or more" if name == "max_drop" else "more than 0"
                raise ValueError(f"Budget: {name}={value!r}, expected a finite number, {lowest}")
        if self.top1_agreement is not None and self.top1_agreement > 1:
            raise ValueError(f"Budget: top1_agreement={self.top1_agreement!r} is a share, expected at most 1")
        if (self.metric is None) != (self.max_drop is None):
            raise ValueError("Budget: metric and max_drop belong together: give both, or neither")
        if self.metric is not None and not callable(self.metric):
            raise TypeError(f"Budget: metric must be a function of a model, got {type(self.metric).__name__}")
        if not self.limits:
            raise ValueError(
                "Budget: no limit is given: expected relative_error, sqnr_db, top1_agreement, or metric and max_drop"
            )

    @property
    def limits(self) -> dict[str, float]:
        """The limits by their names."""
        names = ("relative_error", "sqnr_db", "top1_agreement", "max_drop")
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    @property
    def largest_error(self) -> float:
        """The relative error that it allows; infinite where it is not of errors."""
        given = [] if self.relative_error is None else [self.relative_error]
        given += [] if self.sqnr_db is None else [10 ** (-self.sqnr_db / 20)]
        return min(given, default=math.inf)

    def used(self, distance: Distance, elsewhere: bool = False) -> float:
        """The share of the budget that outputs at this distance use: above 1 they break it.

        Args:
            elsewhere: what is to be expected of other calls (:attr:`Distance.expected`), not what these show.
        """
        error = distance.expected if elsewhere else distance.relative_error
        shares = [_share(error, self.largest_error)]
        if self.top1_agreement is not None:
            shares.append(_share(1 - distance.top1_agreement, 1 - self.top1_agreement))
        return max(shares) if all(map(math.isfinite, shares)) else math.inf

    def used_by_score(self, score: float, reference: float) -> float:
        """The share of the budget that a model with this score uses, where the model itself has the other."""
        assert self.max_drop is not None, "with a metric"
        return _share(max(reference - score, 0.0), self.max_drop)

    def __repr__(self) -> str:
        given = [f"{name}={value!r}" for name, value in self.limits.items()]
        if self.metric is not None:
            given.insert(-1, f"metric={getattr(self.metric, '__name__', type(self.metric).__name__)}")
        return f"Budget({', '.join(given)})"


def _share(part: float, limit: float) -> float:
    """0.0 where nothing was used, also of nothing."""
    if part <= 1e-12:  # what rounding leaves of 1 - 1
        return 0.0
    return part / limit if limit > 0 else math.inf
