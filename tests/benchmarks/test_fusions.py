"""What is compared computes the same; no times are asserted."""

from __future__ import annotations

import pytest
import torch

from benchmarks.fusions import Piece, pieces

PIECES = pieces()


@pytest.mark.parametrize("piece", PIECES, ids=lambda piece: piece.name)
def test_every_piece_runs(piece: Piece) -> None:
    result = piece.function(*piece.inputs)
    assert all(t.isfinite().all() for t in (result if isinstance(result, tuple) else (result,)))


@pytest.mark.parametrize("piece", [p for p in PIECES if p.other and "affine" not in p.other_name], ids=lambda p: p.name)
def test_other_ways_give_the_same(piece: Piece) -> None:
    assert piece.other is not None
    result = piece.function(*piece.inputs)
    expected = torch.stack(result) if isinstance(result, tuple) else result
    rounding = 16 * torch.finfo(expected.dtype).eps * float(expected.abs().max())
    torch.testing.assert_close(piece.other(*piece.inputs), expected, rtol=0, atol=rounding)
