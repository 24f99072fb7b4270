"""How many zeros weights have."""

from __future__ import annotations

import pytest
import torch

from txgraph.ir.zeros import count_nonzero, is_two_of_four, nonzero_percent


def weight(nonzero: int) -> torch.Tensor:
    """Of 1000 numbers so many are not zero."""
    return (torch.arange(1000) < nonzero).float().view(10, 100)


@pytest.mark.parametrize(
    ("nonzero", "percent"),
    [(1000, None), (701, None), (700, 70), (640, 65), (120, 10), (130, 15), (97, 10), (94, 9), (4, 0), (0, 0)],
)
def test_percent(nonzero: int, percent: int | None) -> None:
    assert count_nonzero(weight(nonzero)) == nonzero
    assert nonzero_percent([weight(nonzero)]) == percent


def test_several_weights_count_together() -> None:
    assert nonzero_percent([weight(1000), weight(0)]) == 50
    assert nonzero_percent([torch.ones(0, 4)]) is None
    assert nonzero_percent([-0.0 * weight(1000), torch.full((10, 100), torch.nan)]) == 50


def test_two_of_four() -> None:
    pattern = torch.tensor([[0.0, 1, 2, 0, 3, 0, 0, 0], [0, 0, 1, 1, 0, 0, 0, 0]])
    assert is_two_of_four(pattern)
    assert not is_two_of_four(pattern.roll(2, 1)[:, 1:7])  # no multiple of four
    pattern[0, 0] = 1
    assert not is_two_of_four(pattern)
