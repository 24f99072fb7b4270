"""Units through a reshape, against the places that the reshape really moves."""

from __future__ import annotations

import itertools
from math import prod

import pytest
import torch

from txgraph.passes.sparsity.units import NO_UNIT, Units

SHAPES = [shape for rank in (1, 2, 3, 4) for shape in itertools.product((1, 2, 3, 4, 6, 12), repeat=rank)]
SHAPES = [shape for shape in SHAPES if prod(shape) == 24]


def spread(units: Units, shape: tuple[int, ...]) -> torch.Tensor:
    """The unit of every element of a value."""
    labels = units.labels.repeat(shape[units.axis] // len(units.labels))
    return labels.view([-1 if axis == units.axis else 1 for axis in range(len(shape))]).expand(shape)


@pytest.mark.parametrize("count", [2, 3, 4, 12])
def test_reshapes(count: int) -> None:
    """Whatever is answered is true of every element; and what one axis can say is answered."""
    answered = 0
    for source in SHAPES:
        for axis, size in enumerate(source):
            if size % count:
                continue
            units = Units(axis, torch.arange(count).repeat_interleave(size // count))
            for result in SHAPES:
                answer, wanted = units.reshaped(source, result), spread(units, source).reshape(result)
                one_axis = any(_only_along(wanted, each) for each in range(len(result)))
                assert isinstance(answer, Units) == one_axis, (source, axis, result, answer)
                if isinstance(answer, Units):
                    assert spread(answer, result).equal(wanted), (source, axis, result)
                    answered += 1
    assert answered > 100


def _only_along(labels: torch.Tensor, axis: int) -> bool:
    line = labels.movedim(axis, -1).reshape(-1, labels.shape[axis])
    return bool((line == line[:1]).all())


def test_units_that_are_a_part_of_an_axis() -> None:
    """Query, key and value side by side, of which only the last is known yet."""
    units = Units(1, torch.tensor([NO_UNIT] * 16 + [0] * 4 + [1] * 4))
    assert isinstance(units.reshaped((5, 24), (5, 3, 8)), str)
    answer = units.reshaped((5, 24), (5, 6, 4))
    assert isinstance(answer, Units)
    assert answer.labels.tolist() == [NO_UNIT] * 4 + [0, 1]


def test_merged() -> None:
    a, b = Units(0, torch.tensor([0, 1, NO_UNIT, NO_UNIT])), Units(0, torch.tensor([NO_UNIT, NO_UNIT, 0, 1]))
    both = a.merged(b)
    assert both is not None
    assert both.labels.tolist() == [0, 1, 0, 1]
    short = both.merged(Units(0, torch.tensor([0, 1])))
    assert short is not None
    assert short.labels.tolist() == [0, 1, 0, 1]
    assert a.merged(Units(0, torch.tensor([1, NO_UNIT, 0, 1]))) is None
    assert a.merged(Units(1, a.labels)) is None
    assert a.merged(Units(0, torch.tensor([0, 1, 2]))) is None


def test_cut_and_placed() -> None:
    units = Units(0, torch.arange(4))
    piece = units.cut(1, 3, 4)
    assert isinstance(piece, Units)
    assert piece.labels.tolist() == [1, 2]
    placed = piece.placed(2, 5)
    assert isinstance(placed, Units)
    assert placed.labels.tolist() == [NO_UNIT, NO_UNIT, 1, 2, NO_UNIT]
    assert placed.cut(0, 2, 5) is None
    assert units.cut(0, 4, 8) == "units that repeat along an axis are cut"
