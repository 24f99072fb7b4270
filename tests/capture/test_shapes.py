"""Which axes become dynamic at the second shape, and the form in which torch.export wants to hear it."""

from __future__ import annotations

import pytest
import torch
from torch.export import Dim
from transformers import DynamicCache

from txgraph.capture import dynamic_axes
from txgraph.capture.pytrees import register_caches
from txgraph.capture.shapes import export_shapes

IDS = torch.ones(3, 7, dtype=torch.int64)
HIDDEN = torch.ones(3, 7, 8)


@pytest.mark.parametrize(
    ("tensor", "seen", "expected"),
    [
        (IDS, [(3, 9)], {0, 1}),
        (IDS, [(3, 7)], {0, 1}),
        (IDS.bool(), [(2, 7)], {0, 1}),
        (HIDDEN, [(3, 7, 8)], {0}),
        (HIDDEN, [(3, 9, 8)], {0, 1}),
        (HIDDEN, [(3, 9, 8), (3, 7, 4)], {0, 1, 2}),
        (torch.ones(1, 7, dtype=torch.int64), [(3, 9)], {1}),
        (torch.ones(1, 1, 8), [(3, 9, 8)], set()),
        (torch.ones(0, 7), [(3, 9)], {1}),
        (torch.tensor(1.0), [()], set()),
        (torch.ones(5, dtype=torch.int64), [(6,)], {0}),
    ],
)
def test_axes(tensor: torch.Tensor, seen: list[tuple[int, ...]], expected: set[int]) -> None:
    assert dynamic_axes([tensor], [[torch.Size(s)] for s in seen]) == [expected]


def test_each_input_is_judged_by_its_own_shapes() -> None:
    seen = [[torch.Size((3, 9)), torch.Size((3, 7, 8))], [torch.Size((3, 7)), torch.Size((3, 7, 6))]]
    assert dynamic_axes([IDS, HIDDEN], seen) == [{0, 1}, {0, 2}]


def test_by_name() -> None:
    axes = [frozenset({0, 1}), frozenset[int](), frozenset({1})]
    kwargs = {"ids": IDS, "scale": 2.0, "pair": [HIDDEN, {"x": HIDDEN}]}
    named = {"ids": {0: Dim.AUTO, 1: Dim.AUTO}, "scale": None, "pair": [None, {"x": {1: Dim.AUTO}}]}
    assert export_shapes((), kwargs, axes) == ([], named)


def test_positional_arguments_come_first() -> None:
    axes = [frozenset({0}), frozenset({1})]
    assert export_shapes((IDS, None), {"last": HIDDEN}, axes) == ([{0: Dim.AUTO}, None], {"last": {1: Dim.AUTO}})


def test_other_containers_are_taken_apart() -> None:
    register_caches()
    cache = DynamicCache()
    cache.update(torch.ones(1, 2, 3, 4), torch.ones(1, 2, 3, 4), 0)
    _, named = export_shapes((), {"cache": cache}, [frozenset({2}), frozenset({2})])
    assert str(named).count("2: ") == 2
    assert isinstance(named["cache"], list)
