"""What a mask does, read from its formula."""

from __future__ import annotations

import pytest
import sympy
import torch

from txgraph.ir.formulas import Expression
from txgraph.ir.index_expressions import axis_symbol
from txgraph.ir.masks import kind_of_mask, visible_keys, window_of_mask
from txgraph.ir.windows import CAUSAL, Window

I0, I1, I2 = (axis_symbol(at) for at in range(3))


@pytest.mark.parametrize(
    ("relation", "causal"),
    [
        (I0 <= I1, True),
        (I1 >= I0, True),
        (I0 < I1 + 1, True),
        (I0 - I1 <= 0, True),
        (I0 - I1 < 1, True),
        (I1 + 3 >= I0 + 3, True),
        (I0 < I1, False),
        (I0 <= I1 + 1, False),
        (I1 <= I0, False),
        (2 * I0 <= 2 * I1 + 1, True),
        (2 * I0 <= 2 * I1 + 2, False),
        (I0 <= I2, False),
        (sympy.Eq(I0, I1), False),
        (sympy.And(I0 <= I1, I0 >= 1), False),
        (sympy.true, False),
    ],
)
def test_is_causal(relation: Expression, causal: bool) -> None:
    assert (Window.of(relation) == CAUSAL) is causal


LOW = -1e4


@pytest.mark.parametrize(
    ("formula", "dtype", "kind"),
    [
        (None, torch.bool, ""),
        (sympy.true, torch.bool, "trivial"),
        (sympy.false, torch.bool, ""),
        (I0 <= I1, torch.bool, "causal"),
        (I0 < I1, torch.bool, ""),
        (sympy.Integer(0), torch.float32, "trivial"),
        (sympy.Integer(1), torch.float32, ""),
        (sympy.Piecewise((0, I0 <= I1), (-sympy.oo, True)), torch.float32, "causal"),
        (sympy.Piecewise((LOW, I0 > I1), (0, True)), torch.float32, "causal"),
        (sympy.Piecewise((LOW + 1, I0 > I1), (0, True)), torch.float32, ""),
        (sympy.Piecewise((1, I0 <= I1), (-sympy.oo, True)), torch.float32, ""),
        (sympy.Piecewise((-sympy.oo, I0 <= I1), (0, True)), torch.float32, ""),
        (sympy.Piecewise((0, I0 <= I1), (I0, True)), torch.float32, ""),
        (I0 + I1, torch.float32, ""),
    ],
)
def test_kind_of_mask(formula: Expression | None, dtype: torch.dtype, kind: str) -> None:
    assert kind_of_mask(formula, dtype, LOW) == kind


def test_a_window_wider_than_the_sequence_is_causal() -> None:
    sliding = sympy.And(I0 <= I1, I0 > I1 - 16)
    assert kind_of_mask(sliding, torch.bool, LOW, (16, 16)) == "causal"
    assert kind_of_mask(sliding, torch.bool, LOW, (17, 16)) == ""
    assert kind_of_mask(sliding, torch.bool, LOW) == ""
    assert kind_of_mask(sympy.Abs(I0 - I1) <= 4, torch.bool, LOW, (5, 5)) == "trivial"
    assert kind_of_mask(sympy.Abs(I0 - I1) <= 4, torch.bool, LOW, (5, 6)) == ""


def test_what_a_mask_shows() -> None:
    shown = sympy.And(I0 <= I1, I0 > I1 - 16)
    hides = sympy.Piecewise((LOW, sympy.Not(shown, evaluate=False)), (0, True))
    assert visible_keys(hides, torch.float32, LOW) == shown
    assert window_of_mask(hides, torch.float32, LOW) == Window(frozenset((I1 - 15,)), frozenset((I1 + 1,)))
    assert window_of_mask(hides, torch.float32, 2 * LOW) is None
    assert window_of_mask(None, torch.bool, LOW) is None
