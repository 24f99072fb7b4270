"""Round weights so that what a linear gives changes least, not each weight by itself.

source: Frantar et al. 2023 (GPTQ): columns are rounded one after another, and what each leaves is made good by those
        that follow; in the form of Chee et al. 2023 (QuIP, section 3), by a decomposition of the inputs' second
        moments, not of their inverse, with the same result.
"""

from __future__ import annotations

import torch

BLOCK = 32  # columns that are rounded before the rest hears of it
IN_CACHE = 1 << 16  # numbers of a weight that are looked at together
CLIPS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.7)  # of the largest magnitude


def round_weight(
    weight: torch.Tensor, scales: torch.Tensor, low: int, high: int, moments: torch.Tensor | None
) -> torch.Tensor:
    """Integers ``q``, such that ``q * scales`` is near ``weight`` in ``E |(q * scales - weight) x|^2``.

    Args:
        weight: ``[N, K]``. scales: for each number, broadcasts to ``[N, K]``; 0 where all numbers are.
        low, high: the least and the largest integer.
        moments: ``E[x x^T]``, ``[K, K]`` float64, positive definite; ``None``: every channel is alike, by itself.

    Returns:
        float32 ``[N, K]``, whole numbers.
    """
    columns = weight.shape[1]
    if moments is None:
        return torch.where(scales != 0, weight.detach().float() / scales, 0.0).round_().clamp_(low, high)
    order = moments.diagonal().argsort(descending=True, stable=True)  # what counts most is rounded with least to bear
    exact = weight.detach().float().t()[order].contiguous()  # [K, N]: what is rounded together lies together
    scales = scales.expand_as(weight).t()[order]
    passed_on = _passed_on(moments[order][:, order]).float()
    values, left = torch.empty_like(exact), torch.empty_like(exact)
    for start in range(0, columns, BLOCK):
        stop = min(start + BLOCK, columns)
        wanted = torch.addmm(exact[start:stop], passed_on[:start, start:stop].t(), left[:start])
        for at in range(start, stop):
            scale = scales[at]
            torch.clamp(torch.where(scale != 0, wanted[at - start] / scale, 0.0).round_(), low, high, out=values[at])
            torch.addcmul(exact[at], values[at], scale, value=-1, out=left[at])
            wanted[at + 1 - start :].addcmul_(passed_on[at, at + 1 : stop, None], left[at])
    result = torch.empty_like(values)
    result[order] = values
    return result.t().contiguous()


def _passed_on(moments: torch.Tensor) -> torch.Tensor:
    """The upper triangular U with ones on its diagonal and ``U D U^T = moments``, D diagonal.

    The error of rounding is ``|(q * scales - weight) U D^(1/2)|^2``: what each column leaves is passed on to those that
    follow by its row of U.
    """
    root: torch.Tensor = torch.linalg.cholesky(moments.flip(0, 1)).flip(0, 1)
    return root / root.diagonal()


def clipped_scales(weight: torch.Tensor, largest: int, importance: torch.Tensor | None) -> torch.Tensor:
    """A scale for each row: of some clips of its largest number the one with the least weighted square error.

    Args:
        weight: ``[N, K]``. largest: integer.
        importance: of each column, ``[K]``, such as ``E[x^2]``; ``None``: all the same.

    Returns:
        float32 ``[N]``.
    """
    counts = torch.ones(weight.shape[1]) if importance is None else importance.float()
    pieces = weight.detach().split(max(1, IN_CACHE // max(1, weight.shape[1])))
    return torch.cat([_clipped_scales(piece.float(), largest, counts) for piece in pieces])


def _clipped_scales(weight: torch.Tensor, largest: int, importance: torch.Tensor) -> torch.Tensor:
    most = weight.abs().amax(1)
    best, scales = torch.full_like(most, torch.inf), most / largest
    for clip in CLIPS:
        tried = most * clip / largest
        step = tried[:, None]
        rounded = torch.where(step > 0, weight / step, 0.0).round_().clamp_(-largest, largest).mul_(step)
        error = rounded.sub_(weight).square_() @ importance
        better = error < best
        best, scales = torch.where(better, error, best), torch.where(better, tried, scales)
    return scales
