"""Round weights so that what a linear gives changes least, not each weight by itself.

source: Frantar et al. 2023 (GPTQ): columns are rounded one after another, and what each leaves is made good by those
        that follow, by the inverse of the inputs' second moments.
"""

from __future__ import annotations

import torch

BLOCK = 32  # columns that are rounded before the rest hears of it
CLIPS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.7)  # of the largest magnitude


def round_weight(
    weight: torch.Tensor, scales: torch.Tensor, low: int, high: int, moments: torch.Tensor
) -> torch.Tensor:
    """Integers ``q``, such that ``q * scales`` is near ``weight`` in ``E |(q * scales - weight) x|^2``.

    Args:
        weight: ``[N, K]``. scales: for each number, broadcasts to ``[N, K]``; 0 where all numbers are.
        low, high: the least and the largest integer. moments: ``E[x x^T]``, ``[K, K]`` float64, positive definite.

    Returns:
        float32 ``[N, K]``, whole numbers.
    """
    columns = weight.shape[1]
    order = moments.diagonal().argsort(descending=True, stable=True)  # what counts most is rounded with least to bear
    rest = weight.detach().float().t()[order].contiguous()  # [K, N]: what is rounded together lies together
    scales = scales.expand_as(weight).t()[order]
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(moments[order][:, order]))
    factor = torch.linalg.cholesky(inverse, upper=True).float()
    values = torch.empty_like(rest)
    for start in range(0, columns, BLOCK):
        stop = min(start + BLOCK, columns)
        left = torch.empty_like(rest[start:stop])
        for at in range(start, stop):
            scale = scales[at]
            exact = torch.where(scale != 0, rest[at] / scale, 0.0)
            torch.clamp(exact.round_(), low, high, out=values[at])
            error = (rest[at] - values[at] * scale) / factor[at, at]
            rest[at + 1 : stop].addcmul_(factor[at, at + 1 : stop, None], error, value=-1)
            left[at - start] = error
        rest[stop:].addmm_(factor[start:stop, stop:].t(), left, alpha=-1)
    result = torch.empty_like(values)
    result[order] = values
    return result.t().contiguous()


def clipped_scales(weight: torch.Tensor, largest: int, importance: torch.Tensor) -> torch.Tensor:
    """A scale for each row: of some clips of its largest number the one with the least weighted square error.

    Args:
        weight: ``[N, K]``. largest: integer. importance: of each column, ``[K]``, such as ``E[x^2]``.

    Returns:
        float32 ``[N]``.
    """
    full = weight.detach().float()
    most = full.abs().amax(1)
    best, scales = torch.full_like(most, torch.inf), most / largest
    for clip in CLIPS:
        tried = most * clip / largest
        step = tried[:, None]
        rounded = torch.where(step > 0, full / step, 0.0).round().clamp(-largest, largest) * step
        error = ((rounded - full).square() * importance.float()).sum(1)
        better = error < best
        best, scales = torch.where(better, error, best), torch.where(better, tried, scales)
    return scales
