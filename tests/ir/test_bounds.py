"""No value lies outside its bounds, whatever it was computed from; what may be NaN has none."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.fx import Node

from tests.helpers import Program
from txgraph.ir import Mutation
from txgraph.ir.bounds import ValueBounds

aten = torch.ops.aten
INF, NAN = math.inf, math.nan
UNKNOWN = (-INF, INF)
BOOL, INT, FLOAT, HALF = torch.bool, torch.int64, torch.float32, torch.float16
MIN = torch.finfo(FLOAT).min

Make = Callable[[Program], Node]


def bounds(program: Program, node: Node) -> tuple[float, float]:
    """The bounds of a node, which its values keep."""
    low, high = ValueBounds(program.graph).of(node)
    value = node.meta["val"]
    if value.numel():
        if bool(value.isnan().any()):
            assert (low, high) == UNKNOWN, f"NaN in [{low}, {high}]"
        else:
            assert low <= float(value.min()), f"{float(value.min())} below {low}"
            assert high >= float(value.max()), f"{float(value.max())} above {high}"
    return low, high


def bounds_of(make: Make) -> tuple[float, float]:
    program = Program()
    return bounds(program, make(program))


def held(p: Program, *values: float, dtype: torch.dtype = FLOAT) -> Node:
    return p.constant(torch.tensor(values, dtype=dtype))


def unknown(p: Program, dtype: torch.dtype = FLOAT) -> Node:
    return p.input(torch.tensor([5, -7]).to(dtype))


KNOWN: dict[str, tuple[Make, tuple[float, float]]] = {
    "constant": (lambda p: held(p, 3, -2, 0.5), (-2, 3)),
    "constant with infinity": (lambda p: held(p, 3, -INF), (-INF, 3)),
    "constant of integers": (lambda p: held(p, 3, -2, dtype=INT), (-2, 3)),
    "constant of truths": (lambda p: held(p, True, True, dtype=BOOL), (1, 1)),
    "full": (lambda p: p.call(aten.full.default, [2], 2.5), (2.5, 2.5)),
    "full_like": (lambda p: p.call(aten.full_like.default, unknown(p), -1e4), (-1e4, -1e4)),
    "new_full": (lambda p: p.call(aten.new_full.default, unknown(p), [2], 7), (7, 7)),
    "zeros": (lambda p: p.call(aten.zeros.default, [2]), (0, 0)),
    "ones_like": (lambda p: p.call(aten.ones_like.default, unknown(p)), (1, 1)),
    "scalar_tensor": (lambda p: p.call(aten.scalar_tensor.default, 2.5), (2.5, 2.5)),
    "truths": (lambda p: p.call(aten.gt.Scalar, unknown(p), 1), (0, 1)),
    "where": (lambda p: p.call(aten.where.self, unknown(p, BOOL), held(p, 1, 2), held(p, -5, 0)), (-5, 2)),
    "where of numbers": (lambda p: p.call(aten.where.Scalar, unknown(p, BOOL), 0.0, MIN), (MIN, 0)),
    "where of one number": (lambda p: p.call(aten.where.ScalarOther, unknown(p, BOOL), held(p, 3, 4), -1), (-1, 4)),
    "masked_fill": (lambda p: p.call(aten.masked_fill.Scalar, held(p, 1, 2), unknown(p, BOOL), -1e4), (-1e4, 2)),
    "masked_fill of a tensor": (
        lambda p: p.call(aten.masked_fill.Tensor, held(p, 1, 2), unknown(p, BOOL), p.constant(torch.tensor(9.0))),
        (1, 9),
    ),
    "neg": (lambda p: p.call(aten.neg.default, held(p, -2, 3)), (-3, 2)),
    "add": (lambda p: p.call(aten.add.Tensor, held(p, -2, 3), held(p, 10, 20)), (8, 23)),
    "add number": (lambda p: p.call(aten.add.Tensor, held(p, -2, 3), 1), (-1, 4)),
    "sub": (lambda p: p.call(aten.sub.Tensor, held(p, -2, 3), held(p, 10, 20)), (-22, -7)),
    "rsub": (lambda p: p.call(aten.rsub.Scalar, held(p, -2, 3), 1.0), (-2, 3)),
    "mul": (lambda p: p.call(aten.mul.Tensor, held(p, -2, 3), held(p, -5, 4)), (-15, 12)),
    "mul by a negative number": (lambda p: p.call(aten.mul.Tensor, held(p, -2, 3), -2), (-6, 4)),
    "one minus truth, times lowest": (
        lambda p: p.call(
            aten.mul.Tensor,
            p.call(aten.rsub.Scalar, p.call(aten._to_copy.default, unknown(p, BOOL), dtype=FLOAT), 1.0),
            MIN,
        ),
        (MIN, 0),
    ),
    "cat": (lambda p: p.call(aten.cat.default, [held(p, -2, 3), held(p, 10)]), (-2, 10)),
    "embedding": (
        lambda p: p.call(aten.embedding.default, p.constant(torch.arange(6.0).view(3, 2)), p.input(torch.tensor([2]))),
        (0, 5),
    ),
    "index": (lambda p: p.call(aten.index.Tensor, held(p, -2, 3), [p.input(torch.tensor([1, 0]))]), (-2, 3)),
    "views": (
        lambda p: p.call(aten.slice.Tensor, p.call(aten.unsqueeze.default, held(p, -2, 3), 0), 1, 0, 1),
        (-2, 3),
    ),
    "reshape": (lambda p: p.call(aten.reshape.default, held(p, -2, 3), [2, 1]), (-2, 3)),
    "clone": (lambda p: p.call(aten.clone.default, held(p, -2, 3)), (-2, 3)),
    "cast": (lambda p: p.call(aten._to_copy.default, held(p, -2, 3), dtype=HALF), (-2, 3)),
    "cast to integers": (lambda p: p.call(aten._to_copy.default, held(p, -2.5, 3.5), dtype=INT), (-3, 4)),
    "cast to truths": (lambda p: p.call(aten._to_copy.default, unknown(p), dtype=BOOL), (0, 1)),
}


@pytest.mark.parametrize(("make", "expected"), KNOWN.values(), ids=list(KNOWN))
def test_known(make: Make, expected: tuple[float, float]) -> None:
    assert bounds_of(make) == expected


NOT_KNOWN: dict[str, Make] = {
    "input": unknown,
    "of an input": lambda p: p.call(aten.add.Tensor, unknown(p), 1),
    "zero times an input": lambda p: p.call(aten.mul.Tensor, unknown(p), 0.0),
    "NaN": lambda p: p.call(aten.full.default, [2], NAN),
    "constant with NaN": lambda p: held(p, 1, NAN),
    "no constant": lambda p: p.constant(torch.empty(0)),
    "complex constant": lambda p: p.constant(torch.ones(1, dtype=torch.complex64)),
    "inf - inf": lambda p: p.call(aten.sub.Tensor, held(p, INF), held(p, INF)),
    "inf + -inf, perhaps": lambda p: p.call(aten.add.Tensor, held(p, 1, INF), held(p, -INF, 1)),
    "0 * inf": lambda p: p.call(aten.mul.Tensor, held(p, 0, 1), held(p, INF, 1)),
    "0 * inf, inside": lambda p: p.call(aten.mul.Tensor, held(p, -1, 0, 1), held(p, 2, INF, INF)),
    "NaN where": lambda p: p.call(aten.where.ScalarOther, unknown(p, BOOL), held(p, 1, 2), NAN),
    "add with alpha": lambda p: p.call(aten.add.Tensor, held(p, 1, 2), held(p, 1, 2), alpha=3),
    "memory beyond the view": lambda p: p.call(
        aten.as_strided.default, p.constant(torch.tensor([1.0, 2.0, 99.0])[:2]), [3], [1]
    ),
    "negated view": lambda p: p.call(aten._neg_view.default, held(p, 1, 2)),
    "another operator": lambda p: p.call(aten.exp.default, held(p, 1, 2)),
}


@pytest.mark.parametrize("make", NOT_KNOWN.values(), ids=list(NOT_KNOWN))
def test_not_known(make: Make) -> None:
    program = Program()
    node = make(program)
    if not node.meta["val"].is_complex():
        bounds(program, node)
    assert ValueBounds(program.graph).of(node) == UNKNOWN


WRAPPING: dict[str, Make] = {
    "integers that wrap around": lambda p: p.call(aten.mul.Tensor, held(p, 2**40, dtype=INT), 2**40),
    "narrow integers that wrap around": lambda p: p.call(
        aten._to_copy.default, held(p, 300, dtype=INT), dtype=torch.int8
    ),
    "negative of unsigned": lambda p: p.call(aten.neg.default, held(p, 5, dtype=torch.uint8)),
    "view as another dtype": lambda p: p.call(aten.view.dtype, held(p, 1, 2), torch.int32),
}


@pytest.mark.parametrize("make", WRAPPING.values(), ids=WRAPPING.keys())
def test_integers_that_may_wrap_around_stay_in_the_range_of_their_dtype(make: Make) -> None:
    program = Program()
    node = make(program)
    limits = torch.iinfo(node.meta["val"].dtype)
    assert ValueBounds(program.graph).of(node) == (float(limits.min), float(limits.max))


def test_integers_that_are_given() -> None:
    program = Program()
    wide = program.call(aten._to_copy.default, program.input(torch.tensor([3])), dtype=torch.float32)
    assert ValueBounds(program.graph).of(wide) == (-(2.0**63), 2.0**63)


def test_matrix_products_are_as_large_as_they_are_taken_to_be() -> None:
    program = Program()
    product = program.call(aten.matmul.default, program.input(torch.ones(2, 2)), program.input(torch.ones(2, 2)))
    assert ValueBounds(program.graph).of(product) == UNKNOWN
    assert ValueBounds(program.graph, products=100.0).of(product) == (-100, 100)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda p: p.call(aten.tril.default, p.constant(torch.full((2, 2), 3.0))), (0, 3)),
        (lambda p: p.call(aten.div.Tensor, held(p, 1.0, 4.0), -2), (-2, -0.5)),
        (lambda p: p.call(aten.clamp.default, held(p, -7.0, 4.0), -2, 3), (-2, 3)),
        (lambda p: p.call(aten.repeat.default, held(p, -7.0, 4.0), [3]), (-7, 4)),
    ],
)
def test_further_operators(make: Make, expected: tuple[float, float]) -> None:
    program = Program()
    assert ValueBounds(program.graph).of(make(program)) == expected


def test_clamped_values_that_may_be_nan() -> None:
    program = Program()
    clamped = program.call(aten.clamp.default, program.input(torch.ones(2)), -2, 3)
    assert ValueBounds(program.graph).of(clamped) == UNKNOWN


def test_plain_values() -> None:
    known = ValueBounds(Program().graph)
    assert known.of(True) == (1, 1)
    assert known.of(-2.5) == (-2.5, -2.5)
    assert known.of(-INF) == (-INF, -INF)
    for value in (NAN, None, "text"):
        assert known.of(value) == UNKNOWN


FLOATS = (HALF, torch.bfloat16, FLOAT, torch.float64)


def lowest_plus(dtype: torch.dtype, value: float) -> tuple[float, float]:
    lowest = torch.finfo(dtype).min
    return bounds_of(lambda p: p.call(aten.add.Tensor, held(p, lowest, 0, dtype=dtype), held(p, value, dtype=dtype)))


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_lowest_number_plus_something_small(dtype: torch.dtype) -> None:
    """It rounds to the lowest number, so that a bias under a mask does not make it -inf."""
    small = 1 / 4 if dtype is HALF else 1e4
    assert lowest_plus(dtype, -small)[0] == torch.finfo(dtype).min
    assert lowest_plus(dtype, small)[0] >= torch.finfo(dtype).min


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_lowest_number_plus_something_large(dtype: torch.dtype) -> None:
    limits = torch.finfo(dtype)
    for value in (limits.min, limits.min / 2, limits.min * limits.eps):
        assert lowest_plus(dtype, value)[0] == -INF


def test_largest_numbers() -> None:
    for dtype in FLOATS:
        largest = torch.finfo(dtype).max
        twice: Make = lambda p, dtype=dtype, largest=largest: p.call(  # noqa: E731
            aten.add.Tensor, held(p, largest, 1, dtype=dtype), held(p, largest, 1, dtype=dtype)
        )
        assert bounds_of(twice) == (2, INF)


def test_cast_to_a_narrower_dtype() -> None:
    for value in (-1e39, -3.5e38, 0.1, 1e-50, 1e39, 65519.0):
        for dtype in (FLOAT, HALF, torch.bfloat16):
            low, high = bounds_of(
                lambda p, value=value, dtype=dtype: p.call(
                    aten._to_copy.default, held(p, value, dtype=torch.float64), dtype=dtype
                )
            )
            assert low <= high


def test_number_that_the_dtype_cannot_hold() -> None:
    """0.1 and its nearest float32 differ: the sum is 0, not a little less."""
    tenth = torch.tensor(-0.1)
    low, high = bounds_of(lambda p: p.call(aten.add.Tensor, p.constant(tenth), 0.1))
    assert low <= 0 <= high


def test_constants_that_are_used_or_written_to() -> None:
    program = Program()
    node = program.call(aten.add.Tensor, held(program, 1, 2), held(program, NAN, 2))
    known = ValueBounds(program.graph)
    assert known.of(node) == UNKNOWN
    assert known.used == {"c0"}
    program.graph.mutations = (Mutation("buffer", "c0"),)
    known = ValueBounds(program.graph)
    assert known.of(next(n for n in program.graph.nodes if n.target == "c0")) == UNKNOWN
    assert known.used == set()


def test_graph_deeper_than_the_stack() -> None:
    program = Program()
    node = held(program, 1, 2)
    for _ in range(1500):
        node = program.call(aten.neg.default, node)
    assert bounds(program, node) == UNKNOWN


# Any chain of operators.

VALUES = st.sampled_from(
    [0.0, -0.0, 1.0, -1.0, 0.1, -0.1, 3.7, 1e-45, 1e-8, -1e4, 65504.0, -65504.0, 1e30, MIN, -MIN, INF, -INF, NAN]
)
DTYPES = st.sampled_from([FLOAT, FLOAT, HALF, torch.bfloat16, torch.float64, INT, torch.int32, torch.uint8, BOOL])


def leaf(p: Program, draw: Any) -> Node:
    values, dtype = draw(st.lists(VALUES, min_size=2, max_size=2)), draw(DTYPES)
    if not dtype.is_floating_point:
        values = [min(max(v, -300.0), 300.0) if v == v else 0.0 for v in values]
    tensor = torch.tensor(values, dtype=torch.float64).to(INT if not dtype.is_floating_point else dtype).to(dtype)
    match draw(st.integers(0, 3)):
        case 0:
            return p.input(tensor)
        case 1:
            return p.call(aten.full.default, [2], values[0], dtype=dtype)
    return p.constant(tensor)


def step(p: Program, nodes: list[Node], draw: Any) -> Node:
    one, two, three = (draw(st.sampled_from(nodes)) for _ in range(3))
    number = draw(VALUES)
    match draw(st.integers(0, 9)):
        case 0 | 1 | 2:
            target = draw(st.sampled_from([aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor]))
            return p.call(target, one, draw(st.sampled_from([two, number, 3, -2, 2**40])))
        case 3:
            return p.call(aten.rsub.Scalar, one, number)
        case 4:
            return p.call(aten._to_copy.default, one, dtype=draw(DTYPES))
        case 5:
            return p.call(aten.neg.default, one)
        case 6:
            condition = p.call(aten._to_copy.default, one, dtype=BOOL)
            return p.call(
                *draw(
                    st.sampled_from(
                        [
                            (aten.where.self, condition, two, three),
                            (aten.where.ScalarOther, condition, two, number),
                            (aten.where.Scalar, condition, number, 0.0),
                        ]
                    )
                )
            )
        case 7:
            condition = p.call(aten._to_copy.default, one, dtype=BOOL)
            return p.call(aten.masked_fill.Scalar, two, condition, number)
        case 8:
            return p.call(aten.cat.default, [one, two])
    return p.call(
        *draw(
            st.sampled_from(
                [
                    (aten.unsqueeze.default, one, 0),
                    (aten.slice.Tensor, one, -1, 0, 1),
                    (aten.reshape.default, one, [-1]),
                    (aten.clone.default, one),
                ]
            )
        )
    )


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(st.data())
def test_bounds_of_any_program(data: st.DataObject) -> None:
    program = Program()
    nodes: list[Node] = []
    for _ in range(data.draw(st.integers(2, 9))):
        try:
            choose = data.draw(st.integers(0, 2)) if len(nodes) > 1 else 0
            nodes.append(step(program, nodes, data.draw) if choose else leaf(program, data.draw))
        except (RuntimeError, IndexError, TypeError, ValueError):
            continue  # not a legal call
    for node in nodes:
        bounds(program, node)
