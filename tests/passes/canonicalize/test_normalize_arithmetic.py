"""Arithmetic with several spellings gets one, and keeps its values."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from tests.helpers import FLOATS, normal, rewritten
from tests.small import apply, bits, find, traced
from txgraph.ir import arguments, interpret
from txgraph.passes.canonicalize.normalize_arithmetic import NormalizeArithmetic

RULE = NormalizeArithmetic()
X = normal(3, 4)
Y = normal(3, 4).abs() + 0.1
HIDDEN = X > 0.3

Tensor = torch.Tensor
aten = torch.ops.aten

FORMS: dict[str, tuple[Callable[..., Tensor], dict[str, int]]] = {
    "quotient by a number": (lambda x, y: x / 8, {"mul": 1}),
    "quotient by another number": (lambda x, y: x / 2.8284271247461903, {"mul": 1}),
    "quotient by a negative number": (lambda x, y: x / -3, {"mul": 1}),
    "difference to a number": (lambda x, y: x - 0.25, {"add": 1}),
    "square": (lambda x, y: x.pow(2), {"mul": 1}),
    "square by another name": (lambda x, y: x.square(), {"mul": 1}),
    "root": (lambda x, y: y.pow(0.5), {"sqrt": 1}),
    "reciprocal root": (lambda x, y: y.pow(-0.5), {"rsqrt": 1}),
    "reciprocal of a root": (lambda x, y: y.sqrt().reciprocal(), {"rsqrt": 1}),
    "quotient by a root": (lambda x, y: x / y.sqrt(), {"mul": 1, "rsqrt": 1}),
    "choice of a number": (lambda x, y: torch.where(y > 0.5, x, -1.0), {"gt": 1, "logical_not": 1, "masked_fill": 1}),
    "filled with a tensor": (lambda x, y: x.masked_fill(y > 0.5, torch.full((), -2.0)), {"gt": 1, "masked_fill": 1}),
}


# Numbers that tensors are filled with are float32: with another dtype they would change that of the result.
CASES = [(name, dtype) for name, (_, count) in FORMS.items() for dtype in FLOATS[: 1 if "masked_fill" in count else 4]]


@pytest.mark.parametrize(("name", "dtype"), CASES, ids=str)
def test_forms(name: str, dtype: torch.dtype) -> None:
    function, count = FORMS[name]
    after = rewritten(RULE, function, X.to(dtype), Y.to(dtype))
    assert {k: v for k, v in after.count().items() if k != "full"} == count


EDGES = torch.tensor([0.0, -0.0, float("inf"), -float("inf"), float("nan"), 1e38, -1e38, 1e-38, 1e-45, 3.0])


@pytest.mark.parametrize("name", ["difference to a number", "square", "root", "reciprocal root"])
def test_edge_values_bit_for_bit(name: str) -> None:
    function, _ = FORMS[name]
    after = rewritten(RULE, function, EDGES, EDGES)
    expected = function(EDGES, EDGES)
    assert bits(interpret(after, [EDGES, EDGES])[0].nan_to_num(7.0)).equal(bits(expected.nan_to_num(7.0)))


@pytest.mark.parametrize("name", FORMS.keys())
def test_edge_values(name: str) -> None:
    rewritten(RULE, FORMS[name][0], EDGES, EDGES.flip(0))


@pytest.mark.parametrize("number", [0.0, float("inf"), float("nan"), 1e-39, 1e39, -1e-45])
def test_numbers_without_a_normal_reciprocal(number: float) -> None:
    assert apply(RULE, traced(lambda x: x / number, X))[1] == []


def test_quotients_of_integers_and_by_tensors() -> None:
    assert apply(RULE, traced(lambda x: x / 2, torch.arange(4)))[1] == []
    assert apply(RULE, traced(lambda x, y: x / y, X, Y))[1] == []
    assert apply(RULE, traced(lambda x: torch.div(x, 2, rounding_mode="floor"), X))[1] == []


def test_root_used_elsewhere() -> None:
    """Then it is computed anyway, and the quotient would come on top."""

    def function(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        root = y.sqrt()
        return x / root, root

    assert apply(RULE, traced(function, X, Y))[1] == []


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int8])
def test_differences_of_integers(dtype: torch.dtype) -> None:
    limits = torch.iinfo(dtype)
    x = torch.tensor([limits.min, -1, 0, 5, limits.max], dtype=dtype)
    after = rewritten(RULE, lambda x: x - 3, x)
    assert after.count() == {"add": 1}
    assert arguments(find(after, "add"))["other"] == -3
    assert torch.equal(interpret(after, [x])[0], x - 3)


def test_differences_that_stay() -> None:
    assert apply(RULE, traced(lambda x: x - 3, torch.arange(4, dtype=torch.uint8)))[1] == []
    assert apply(RULE, traced(lambda x, y: x - y, X, Y))[1] == []
    assert apply(RULE, traced(lambda x: torch.sub(x, 3, alpha=2), X))[1] == []


@pytest.mark.parametrize("exponent", [3, -1, 0, 1.5])
def test_other_powers(exponent: float) -> None:
    assert apply(RULE, traced(lambda x: x.pow(exponent), X))[1] == []
    assert apply(RULE, traced(lambda x: x.pow(2), torch.arange(3)))[1] == []


def test_choices_that_stay() -> None:
    assert apply(RULE, traced(lambda c, x, y: torch.where(c, x, y), HIDDEN, X, Y))[1] == []
    wider = traced(lambda c, x: torch.where(c, x, 1.0), torch.ones(2, 3, 4, dtype=torch.bool), X)
    assert apply(RULE, wider)[0].count() == {"logical_not": 1, "masked_fill": 1}
    promoted = traced(lambda c, x: torch.where(c, x, 1.5), HIDDEN, torch.arange(12).reshape(3, 4))
    assert apply(RULE, promoted)[1] == []
