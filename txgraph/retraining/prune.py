"""Zeros among the weights: single ones, or all of some hidden channels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch

from txgraph.rewrite import Observed

Structure = Literal["elements", "channels"]


@dataclass(frozen=True)
class Prune:
    """Zeros in the place of the weights that matter least, which stay zeros in training.

    Attributes:
        fraction: of the weights, or channels, that become zero. modules: only linears whose names are like this.
        structure: ``"elements"``: single weights. ``"channels"``: what one linear makes only for another to read, as in
            a feed-forward block; ``optimize`` then computes fewer of them.

    Raises:
        ValueError: a fraction that is not between 0 and 1, or another structure.
    """

    fraction: float = 0.5
    modules: str = "*"
    structure: Structure = "elements"

    def __post_init__(self) -> None:
        if not 0 < self.fraction < 1:
            raise ValueError(f"Prune: fraction={self.fraction!r}, expected more than 0 and less than 1")
        if self.structure not in get_args(Structure):
            raise ValueError(f"Prune: structure={self.structure!r}, expected one of {get_args(Structure)}")


def kept_elements(weight: torch.Tensor, fraction: float, observed: Observed | None) -> torch.Tensor:
    """Which numbers of a weight stay, bool ``[N, K]``.

    Without a calibration the largest of the whole weight; with one, of each row those with the largest
    ``|w| sqrt(E x^2)``.

    source: Han et al. 2015 (Learning both weights and connections); Sun et al. 2023 (Wanda), equation 1
    """
    magnitude = weight.abs().float()
    if observed is None:
        return _largest(magnitude.flatten()[None], fraction).view(weight.shape)
    return _largest(magnitude * observed.moments.diagonal().sqrt().to(magnitude.device), fraction)


def kept_channels(
    before: list[torch.Tensor], after: list[torch.Tensor], fraction: float, observed: Observed | None
) -> torch.Tensor:
    """Which hidden channels stay, bool ``[F]``: those with the largest weights, or that add most to what reads them.

    Args:
        before: weights ``[F, K]`` that make the channels. after: weights ``[N, F]`` that read them.
        observed: the hidden values, where there is a calibration.

    source: Sun et al. 2023 (Wanda), equation 1, of whole channels
    """
    importance = sum((weight.double().square().sum(0) for weight in after), torch.zeros((), dtype=torch.float64))
    if observed is not None:
        importance = importance * observed.moments.diagonal().double()
    else:
        for weight in before:
            importance = importance * weight.double().square().sum(1)
    return _largest(importance[None], fraction)[0]


def _largest(scores: torch.Tensor, fraction: float) -> torch.Tensor:
    """Of each row all but a fraction, and one at least; of equal ones the first stay."""
    count = scores.shape[1]
    gone = min(round(count * fraction), count - 1)
    kept = torch.ones_like(scores, dtype=torch.bool)
    order = scores.flip(1).argsort(dim=1, stable=True)  # flipped: of equal ones the last go
    return kept.flip(1).scatter(1, order[:, :gone], False).flip(1)
