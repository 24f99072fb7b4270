"""Windows read from formulas: at every index they show what the formula shows."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st

from txgraph.ir.formulas import Expression
from txgraph.ir.index_expressions import axis_symbol
from txgraph.ir.windows import CAUSAL, EVERYTHING, KEY, QUERY, Window

FAR = sympy.Integer(10**6)


def shows(window: Window) -> Callable[[int, int], bool]:
    """Whether a query sees a key."""
    sides = sympy.Max(0, *window.first), sympy.Min(FAR, *window.end)
    bounds: Callable[[int], tuple[int, int]] = sympy.lambdify([QUERY], sides, modules="math")

    def sees(query: int, key: int) -> bool:
        first, end = bounds(query)
        return first <= key < end

    return sees


def assert_right(formula: Expression, count: int = 12) -> Window:
    window = Window.of(formula)
    assert window is not None, formula
    sees, expected = shows(window), sympy.lambdify([QUERY, KEY], formula, modules="math")
    for query, key in product(range(count), repeat=2):
        assert sees(query, key) is bool(expected(query, key)), f"{formula} at {query}, {key}: {window}"
    return window


def quotient(of: Expression, divisor: int) -> Expression:
    return sympy.floor(of / sympy.Integer(divisor))


WINDOWS: dict[str, Expression] = {
    "everything": sympy.true,
    "causal": KEY <= QUERY,
    "strictly causal": KEY < QUERY,
    "sliding": sympy.And(KEY <= QUERY, KEY > QUERY - 4),
    "sliding, hidden twice": sympy.Not(sympy.Or(KEY > QUERY, KEY <= QUERY - 4), evaluate=False),
    "band": sympy.Abs(QUERY - KEY) <= 3,
    "band, strictly": sympy.Abs(KEY - QUERY) < 3,
    "itself": sympy.Eq(KEY, QUERY),
    "chunks": sympy.Eq(quotient(KEY, 4), quotient(QUERY, 4)),
    "chunks, causal": sympy.And(KEY <= QUERY, sympy.Eq(quotient(KEY, 4), quotient(QUERY, 4))),
    "chunks that start later": sympy.Eq(quotient(KEY + 3, 4), quotient(QUERY + 3, 4)),
    "blocks": quotient(KEY, 4) <= quotient(QUERY, 4),
    "later blocks": quotient(KEY, 4) > quotient(QUERY, 4),
    "half": 2 * KEY <= QUERY,
    "later half": 2 * KEY > QUERY,
    "thirds": 3 * KEY >= 2 * QUERY + 1,
    "some keys": sympy.And(KEY >= 2, KEY < 7),
    "from the other end": KEY <= 7 - QUERY,
    "an empty band": sympy.Abs(2 * KEY - QUERY) < 1,
}


@pytest.mark.parametrize("formula", WINDOWS.values(), ids=WINDOWS)
def test_windows(formula: Expression) -> None:
    assert_right(formula)


def test_names() -> None:
    assert Window.of(sympy.true) == EVERYTHING
    assert Window.of(KEY <= QUERY) == CAUSAL


NONE: dict[str, Expression] = {
    "nothing": sympy.false,
    "sinks": sympy.Or(KEY <= 2, KEY > QUERY - 4),
    "all but itself": sympy.Ne(KEY, QUERY),
    "outside of a band": sympy.Abs(QUERY - KEY) >= 3,
    "some queries": QUERY <= 3,
    "by batch": axis_symbol(3) >= KEY,
    "dilated": sympy.Eq(sympy.Mod(KEY, 2), sympy.Mod(QUERY, 2)),
    "a product": KEY * QUERY <= 9,
    "a square": KEY**2 <= QUERY,
    "two quotients": quotient(KEY, 2) + quotient(KEY, 3) <= QUERY,
    "a quotient and itself": KEY + quotient(KEY, 3) <= QUERY,
    "a quotient of more": sympy.Eq(quotient(2 * KEY, 3), QUERY),
    "an unknown input": sympy.And(KEY <= QUERY, sympy.Ne(sympy.Function("mask")(axis_symbol(3), KEY), 0)),
}


@pytest.mark.parametrize("formula", NONE.values(), ids=NONE)
def test_no_window(formula: Expression) -> None:
    assert Window.of(formula) is None


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(st.data())
def test_any_comparison(data: st.DataObject) -> None:
    """Whatever is read is right. Powers of two: the formulas are evaluated in floating point."""
    small, factors = st.integers(-5, 5), st.sampled_from([-2, -1, 1, 1, 2, 4])

    def side(index: Expression) -> Expression:
        value = data.draw(factors) * index + data.draw(small)
        kind = data.draw(st.sampled_from(["plain", "plain", "quotient", "distance"]))
        if kind == "quotient":
            return data.draw(factors) * quotient(value, data.draw(st.sampled_from([1, 2, 4])))
        return sympy.Abs(value - data.draw(st.sampled_from([0, QUERY]))) if kind == "distance" else value

    relation = data.draw(st.sampled_from([sympy.Le, sympy.Lt, sympy.Ge, sympy.Gt, sympy.Eq]))
    formula = relation(side(KEY), side(QUERY))
    if formula not in (sympy.true, sympy.false) and Window.of(formula) is not None:
        assert_right(formula, 9)


@pytest.mark.parametrize("formula", WINDOWS.values(), ids=WINDOWS)
@pytest.mark.parametrize("sizes", [(1, 1), (3, 3), (5, 8), (8, 5), (20, 20)], ids=str)
def test_within(formula: Expression, sizes: tuple[int, int]) -> None:
    """Of so many keys no query's window changes; and what changes none is left out."""
    window = assert_right(formula)
    smaller = window.within(*sizes)
    sees, saw = shows(smaller), shows(window)
    for query, key in product(range(sizes[0]), range(sizes[1])):
        assert sees(query, key) is saw(query, key)
    assert smaller.first <= window.first
    assert smaller.end <= window.end


def test_bounds_that_no_query_reaches() -> None:
    sliding = Window.of(WINDOWS["sliding"])
    assert sliding is not None
    assert sliding.within(4, 4) == CAUSAL
    assert sliding.within(5, 4) == sliding
    size = sympy.Symbol("s", integer=True, positive=True)
    ahead = Window.of(sympy.And(QUERY - size <= KEY, QUERY + size > KEY))
    assert ahead is not None
    assert len(ahead.first | ahead.end) == 2
