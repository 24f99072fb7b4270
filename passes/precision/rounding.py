"""Round weights so that what a linear gives changes least, not each weight by itself.

source: Frantar et al. 2023 (GPTQ): columns are rounded one after another, and what each leaves is made good by those
        that follow, by the inverse of the inputs' second moments.
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
    rest = weight.detach().float().t()[order].contiguous()  # [K, N]: what is rounded together lies together
    scales = scales.expand_as(weight).t()[order]
    factor = _factor_of_inverse(moments[order][:, order]).float()
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


def _factor_of_inverse(moments: torch.Tensor) -> torch.Tensor:
    """The upper triangular U with ``U^T U = moments^-1``.

    It is the inverse of the upper triangular R with ``R R^T = moments``: one decomposition, not two.
    """
    root: torch.Tensor = torch.linalg.cholesky(moments.flip(0, 1)).flip(0, 1)
    return _inverse_of_upper(root)


def _inverse_of_upper(matrix: torch.Tensor) -> torch.Tensor:
    """Of an upper triangular matrix, by that of its halves: products of matrices are faster than substitution."""
    half = len(matrix) // 2
    if half < BLOCK:
        inverse: torch.Tensor = torch.linalg.solve_triangular(
            matrix, torch.eye(len(matrix), dtype=matrix.dtype), upper=True
        )
        return inverse
    first, last = _inverse_of_upper(matrix[:half, :half]), _inverse_of_upper(matrix[half:, half:])
    result: torch.Tensor = torch.block_diag(first, last)
    result[:half, half:] = -first @ matrix[:half, half:] @ last
    return result


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
