"""Second moments that can be inverted, however few rows were seen."""

from __future__ import annotations

import torch

from tests.helpers import normal
from tests.lossy.models import observed
from txgraph.passes.moments import shrunk_moments


def test_with_many_rows_they_are_those_that_were_seen() -> None:
    x = normal(20000, 4) @ normal(4, 4)
    exact = (x.T @ x / len(x)).double()
    torch.testing.assert_close(shrunk_moments(observed(x), 4), exact, rtol=1e-3, atol=1e-3 * float(exact.max()))


def test_with_few_rows_they_are_nearly_diagonal() -> None:
    x = normal(3, 40)
    moments = shrunk_moments(observed(x), 40)
    seen = (x.T @ x / 3).double()
    torch.testing.assert_close(moments.diagonal(), seen.diagonal(), rtol=1e-4, atol=1e-4)
    off = ~torch.eye(40, dtype=torch.bool)
    torch.testing.assert_close(moments[off], seen[off] * 3 / 43)
    assert float(torch.linalg.eigvalsh(moments).min()) > 0


def test_channels_that_were_never_active_can_be_inverted() -> None:
    x = normal(100, 8)
    x[:, 3] = 0
    assert bool(torch.linalg.inv(shrunk_moments(observed(x), 8)).isfinite().all())
    assert bool(torch.linalg.inv(shrunk_moments(observed(torch.zeros(5, 8)), 8)).isfinite().all())


def test_without_a_calibration_all_count_alike() -> None:
    assert shrunk_moments(None, 3).equal(torch.eye(3, dtype=torch.float64))
