"""How much each hidden channel or head matters to what reads it, and what the others can do in its place.

All is computed in float64 from second moments of hidden values h over tokens: ``E[h_j^2]``, or the matrix
``C = E[h h^T]``, which a caller measures.

source: Sun et al. 2023 (Wanda), equation 1, of whole channels; Frantar & Alistarh 2023 (SparseGPT), section 3.1: refit
"""

from __future__ import annotations

import torch

Tensor = torch.Tensor


def channel_importance(second_moments: Tensor, *weights: Tensor) -> Tensor:
    """``E[h_j^2] * ||W[:, j]||^2``: mean squared norm of what channel ``j`` adds to the outputs of its readers.

    Args:
        second_moments: ``[F]``: ``E[h_j^2]``.
        weights: each ``[N, F]``.

    Returns:
        float64 ``[F]``. What a set of channels adds is the sum of theirs if channels are uncorrelated.
    """
    squares = sum((weight.double().square().sum(0) for weight in weights), torch.zeros((), dtype=torch.float64))
    return second_moments.double() * squares


def unit_importance(moments: Tensor, labels: Tensor, *weights: Tensor) -> Tensor:
    """Mean squared norm of what each unit, such as a head, adds to the outputs of its readers.

    Args:
        moments: ``[K]``, second moments of the places that are read, or ``[K, K]`` with those of pairs: within a unit,
            places may be correlated.
        labels: int64 ``[K]``: the unit of each place, none less than 0.
        weights: each ``[N, K]``.

    Returns:
        float64 ``[units]``.
    """
    units = int(labels.max()) + 1 if labels.numel() else 0
    if moments.ndim == 2 and len(labels.unique()) == len(labels):
        moments = moments.diagonal()  # each unit is one place
    if moments.ndim == 1:
        single = channel_importance(moments, *weights)
        return torch.zeros(units, dtype=torch.float64, device=single.device).index_add_(0, labels, single)
    gram = sum((weight.double().t() @ weight.double() for weight in weights), torch.zeros_like(moments.double()))
    within = labels[:, None] == labels
    added = (gram * moments.double() * within).sum(1)  # trace(W_u C_u W_u^T), a row of it for each place
    return torch.zeros(units, dtype=torch.float64, device=added.device).index_add_(0, labels, added)


def refit(weight: Tensor, moments: Tensor, kept: Tensor, damping: float = 1e-6) -> Tensor:
    """The weight on the kept channels that comes nearest to the whole: least squares over the measured tokens.

    ``W C[:, kept] (C[kept, kept] + d I)^-1`` minimises ``E ||W h - W' h[kept]||^2 + d ||W' - W[:, kept]||^2``, where
    the sum on the left has ``d W[:, kept]`` added: damped, the kept columns stay what they are.

    Args:
        weight: ``[N, F]``. moments: ``C = E[h h^T]``, ``[F, F]``.
        kept: the channels that stay.
        damping: d in parts of the mean of the kept diagonal of C; more than 0 where C may be singular.

    Returns:
        float64 ``[N, len(kept)]``.

    Raises:
        torch.linalg.LinAlgError: the kept part of C is singular, and there is no damping.
    """
    whole, all_moments = weight.double(), moments.double()
    inner = all_moments[kept][:, kept]
    extra = damping * inner.diagonal().mean()
    right = whole @ all_moments[:, kept] + extra * whole[:, kept]
    damped = inner + extra * torch.eye(len(inner), dtype=torch.float64, device=inner.device)
    return torch.cholesky_solve(right.T, torch.linalg.cholesky(damped)).T.contiguous()


def left_over(weight: Tensor, new: Tensor, moments: Tensor, kept: Tensor) -> float:
    """``E ||W h - W' h[kept]||^2``: the mean squared error that is left, for ``new`` of :func:`refit` or any other.

    Args:
        weight: ``[N, F]``. new: ``[N, len(kept)]``. moments: ``[F, F]``. kept: the channels that stay.
    """
    difference = weight.double().clone()
    difference[:, kept] -= new.double()
    return float(((difference @ moments.double()) * difference).sum())
