"""What a loader may give, and how its batches are shared out."""

from __future__ import annotations

import math
from collections import UserDict
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from txgraph.lossy import Calibration

X = torch.ones(2, 4)


@pytest.mark.parametrize(
    ("loader", "error", "message"),
    [
        ([], ValueError, "gave no batch: two at least are needed"),
        ([X], ValueError, "gave one batch: two at least are needed"),
        (iter(()), ValueError, "can still be iterated over"),
        (X, TypeError, "must be an iterable of batches, such as a DataLoader .*, got Tensor"),
        ({"x": X}, TypeError, "got dict"),
        (3, TypeError, "got int"),
        (["a", "b"], TypeError, "batch 0 of the calibration is a str: expected a mapping"),
        ([{"x": X}, {"y": X}], ValueError, "batch 1 of the calibration is made otherwise than batch 0: y: .*, not x:"),
        ([{"x": X}, {"x": X.long()}], ValueError, "batch 1 .*int64 with 2 axes, not x: torch.float32 with 2 axes"),
        ([{"x": X, "n": 1}, {"x": X, "n": 2}], ValueError, "batch 1 .*n: 2, not .*n: 1"),
        ([{"x": X}, {"x": X * math.nan}], ValueError, "batch 1 of the calibration has NaN or infinity in x"),
    ],
)
def test_refused(loader: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Calibration.of(loader)


@pytest.mark.parametrize(
    "loader",
    [
        [{"x": X}, {"x": X}],
        [UserDict(x=X), UserDict(x=X)],  # such as a tokenizer gives
        [(X, 3), [X, 3]],
        [X, X],
        DataLoader(TensorDataset(torch.ones(6, 4)), batch_size=2),
        (X for _ in range(3)),
    ],
)
def test_taken(loader: Any) -> None:
    calls = Calibration.of(loader).calls
    assert len(calls) >= 2
    assert all(call.tensors()[0].equal(X) for call in calls)


def test_halves() -> None:
    calibration = Calibration.of([X * at for at in range(9)])
    for seed in range(5):
        chosen_by, held_out = calibration.split(seed)
        assert (len(chosen_by), len(held_out)) == (4, 5)
        assert {id(call) for call in (*chosen_by, *held_out)} == {id(call) for call in calibration.calls}
        assert calibration.split(seed) == (chosen_by, held_out)
    assert len({tuple(map(id, calibration.split(seed)[0])) for seed in range(5)}) > 1


def test_its_digest_is_of_all_values() -> None:
    one = Calibration.of([X, X]).digest
    assert Calibration.of([X.clone(), X.clone()]).digest == one
    assert Calibration.of([X, X * 2]).digest != one
    assert Calibration.of([(X, 1), (X, 1)]).digest != one
