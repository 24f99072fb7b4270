"""Second moments of what flows into a linear, made fit for inversion."""

from __future__ import annotations

import torch

from txgraph.rewrite import Observed


def shrunk_moments(observed: Observed | None, columns: int) -> torch.Tensor:
    """``E[x x^T]``, ``[K, K]`` float64; without a calibration all channels count alike.

    Fewer rows than columns say nothing of some directions, and little of others: the moments are drawn to their
    diagonal, by the share of the columns in rows and columns together.

    source: Ledoit and Wolf 2004, "A well-conditioned estimator for large-dimensional covariance matrices", for the form
    """
    if observed is None:
        return torch.eye(columns, dtype=torch.float64)
    moments = observed.moments.double()
    diagonal = moments.diagonal()
    drawn = columns / (columns + observed.rows)
    floor = 1e-6 * float(diagonal.mean()) or 1.0  # a channel that was never active may be
    return (1 - drawn) * moments + torch.diag(drawn * diagonal + floor)
