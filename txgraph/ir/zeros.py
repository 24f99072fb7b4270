"""Weights that are mostly zeros, as pruning leaves them."""

from __future__ import annotations

from collections.abc import Sequence

import torch

FEWEST = 0.3  # zeros of a weight that is worth a look: with fewer, no sparse kernel was near a dense one
_FINE, _COARSE = 1, 5  # percent


def nonzero_percent(weights: Sequence[torch.Tensor]) -> int | None:
    """About how much of some weights is not zero: in steps of 1 % below 10 %, of 5 % above.

    ``None`` where fewer than :data:`FEWEST` are zeros. Steps, so that the layers of a model that was pruned as a whole
    count as alike.
    """
    numbers = sum(weight.numel() for weight in weights)
    nonzero = sum(map(count_nonzero, weights))
    if not numbers or nonzero > (1 - FEWEST) * numbers:
        return None
    percent = 100 * nonzero / numbers
    step = _FINE if percent < 10 else _COARSE
    return round(percent / step) * step


def count_nonzero(weight: torch.Tensor) -> int:
    """How many numbers are not zero."""
    return int(weight.detach().count_nonzero())


def is_two_of_four(weight: torch.Tensor) -> bool:
    """Whether of four numbers of a row, side by side, two at least are zeros, as sparse tensor cores want them.

    Args:
        weight: ``[N, K]``.

    Source: Mishra et al. 2021 (Accelerating sparse deep neural networks).
    """
    if weight.shape[1] % 4:
        return False
    return bool(((weight.detach() != 0).unflatten(1, (-1, 4)).sum(-1) <= 2).all())
