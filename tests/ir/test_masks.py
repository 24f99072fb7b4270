"""What a mask does, read from its formula."""

from __future__ import annotations

import pytest
import sympy
import torch

from txgraph.ir.formulas import Expression
from txgraph.ir.index_expressions import axis_symbol
from txgraph.ir.masks import is_causal, kind_of_mask

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
        (2 * I0 <= 2 * I1 + 1, False),
        (I0 <= I2, False),
        (sympy.Eq(I0, I1), False),
        (sympy.And(I0 <= I1, I0 >= 1), False),
        (sympy.true, False),
        (I0, False),
        (sympy.Integer(0), False),
    ],
)
def test_is_causal(relation: Expression, causal: bool) -> None:
    assert is_causal(relation) is causal


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
