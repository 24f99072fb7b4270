"""A formula is the value of its tensor at every index, whatever it was derived from; no formula is always right."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import sympy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.export import Dim
from torch.fx import Node

from tests.helpers import Program
from tests.small import graph_of
from txgraph.ir import Mutation
from txgraph.ir.index_expressions import Expression, IndexExpressions, axis_symbol
from txgraph.ir.windows import CAUSAL, Window

aten = torch.ops.aten
I0, I1, I2 = (axis_symbol(at) for at in range(3))
INF = float("inf")
BOOL, INT, FLOAT = torch.bool, torch.int64, torch.float32


def formula(program: Program, node: Node) -> Expression | None:
    """The formula of a node; if there is one it is right at every index."""
    found = IndexExpressions(program.graph).of(node)
    if found is not None:
        check(found, node.meta["val"])
    return found


def check(found: Expression, value: torch.Tensor) -> None:
    """The formula gives the value of every element, of the kind that the dtype has."""
    axes = [axis_symbol(at) for at in reversed(range(value.ndim))]
    assert found.free_symbols <= set(axes)
    function = sympy.lambdify(axes, found, modules="math")
    for index in product(*map(range, value.shape)):
        expected, computed = value[index].item(), function(*index)
        assert isinstance(computed, bool) == (value.dtype is BOOL), f"{found} is {computed!r}, not {value.dtype}"
        assert computed == expected, f"{found} at {index} is {computed}, not {expected}"


def formula_of(make: Callable[[Program], Node]) -> Expression | None:
    program = Program()
    return formula(program, make(program))


def arange(p: Program, *args: Any, **kwargs: Any) -> Node:
    overload = (aten.arange.default, aten.arange.start, aten.arange.start_step)[len(args) - 1]
    return p.call(overload, *args, **kwargs)


def keys(p: Program, count: int = 4) -> Node:
    return p.call(aten.unsqueeze.default, arange(p, count), 0)


def queries(p: Program, count: int = 4) -> Node:
    return p.call(aten.unsqueeze.default, arange(p, count), 1)


def visible(p: Program, count: int = 4) -> Node:
    return p.call(aten.le.Tensor, keys(p, count), queries(p, count))


CHOICE = sympy.Piecewise((1, I0 <= I1), (0, True))

DERIVED: dict[str, tuple[Callable[[Program], Node], Expression]] = {
    "arange": (lambda p: arange(p, 4), I0),
    "quotient": (lambda p: p.call(aten.floor_divide.default, arange(p, 4), 2), sympy.floor(I0 / 2)),
    "quotient of negatives": (
        lambda p: p.call(aten.div.Tensor_mode, arange(p, -5, 3), 4, rounding_mode="floor"),
        sympy.floor((I0 - 5) / 4),
    ),
    "distance": (lambda p: p.call(aten.abs.default, arange(p, -2, 3)), sympy.Abs(I0 - 2)),
    "arange from": (lambda p: arange(p, -2, 3), I0 - 2),
    "arange by": (lambda p: arange(p, 7, 0, -2), 7 - 2 * I0),
    "arange of whole floats": (lambda p: arange(p, 2.0, 5.0, dtype=INT), I0 + 2),
    "arange of one": (lambda p: arange(p, 1), sympy.Integer(0)),
    "unsqueeze": (queries, I1),
    "unsqueeze from the end": (lambda p: p.call(aten.unsqueeze.default, visible(p), -1), I1 <= I2),
    "unsqueeze in the middle": (lambda p: p.call(aten.unsqueeze.default, visible(p), 1), I0 <= I2),
    "unsqueeze in front": (lambda p: p.call(aten.unsqueeze.default, visible(p), -3), I0 <= I1),
    "expand": (lambda p: p.call(aten.expand.default, queries(p), [2, 4, 3]), I1),
    "transpose": (lambda p: p.call(aten.transpose.int, visible(p), 0, 1), I1 <= I0),
    "transpose from the end": (lambda p: p.call(aten.transpose.int, visible(p), -1, 0), I1 <= I0),
    "transpose of no axes": (
        lambda p: p.call(aten.transpose.int, p.constant(torch.tensor(3)), 0, -1),
        sympy.Integer(3),
    ),
    "reshape": (lambda p: p.call(aten.reshape.default, arange(p, 4), [1, 4, 1]), I1),
    "view": (lambda p: p.call(aten.view.default, arange(p, 4), [-1, 1]), I1),
    "slice": (lambda p: p.call(aten.slice.Tensor, arange(p, 9), 0, 2, 7), I0 + 2),
    "slice by": (lambda p: p.call(aten.slice.Tensor, arange(p, 9), 0, 1, 9, 3), 3 * I0 + 1),
    "slice of rows": (lambda p: p.call(aten.slice.Tensor, visible(p), 0, 2), I0 <= I1 + 2),
    "slice of columns": (lambda p: p.call(aten.slice.Tensor, visible(p), -1, 2), I0 + 2 <= I1),
    "slice to one": (lambda p: p.call(aten.slice.Tensor, arange(p, 9), 0, 5, 6), sympy.Integer(5)),
    "slice without a start": (lambda p: p.call(aten.slice.Tensor, arange(p, 9), 0, None, 3), I0),
    "add": (lambda p: p.call(aten.add.Tensor, keys(p), queries(p)), I0 + I1),
    "add number": (lambda p: p.call(aten.add.Tensor, keys(p), 3), I0 + 3),
    "add.Scalar": (lambda p: p.call(aten.add.Scalar, keys(p), 3), I0 + 3),
    "sub": (lambda p: p.call(aten.sub.Tensor, keys(p), queries(p)), I0 - I1),
    "rsub": (lambda p: p.call(aten.rsub.Scalar, keys(p), 3), 3 - I0),
    "mul": (lambda p: p.call(aten.mul.Tensor, keys(p), 2), 2 * I0),
    "mul by itself": (lambda p: p.call(aten.mul.Tensor, keys(p), queries(p)), I0 * I1),
    "le": (visible, I0 <= I1),
    "lt": (lambda p: p.call(aten.lt.Tensor, keys(p), queries(p)), I0 < I1),
    "ge": (lambda p: p.call(aten.ge.Tensor, keys(p), queries(p)), I0 >= I1),
    "gt": (lambda p: p.call(aten.gt.Tensor, keys(p), queries(p)), I0 > I1),
    "eq": (lambda p: p.call(aten.eq.Tensor, keys(p), queries(p)), sympy.Eq(I0, I1)),
    "ne": (lambda p: p.call(aten.ne.Tensor, keys(p), queries(p)), sympy.Ne(I0, I1)),
    "le number": (lambda p: p.call(aten.le.Scalar, keys(p), 2), I0 <= 2),
    "ge zero": (lambda p: p.call(aten.ge.Scalar, keys(p), 0), sympy.true),
    "eq of truths": (lambda p: p.call(aten.eq.Scalar, visible(p), True), I0 <= I1),
    "and": (lambda p: p.call(aten.bitwise_and.Tensor, visible(p), p.constant(torch.ones(4, 4, dtype=BOOL))), I0 <= I1),
    "or": (lambda p: p.call(aten.logical_or.default, visible(p), p.constant(torch.zeros(1, dtype=BOOL))), I0 <= I1),
    "not": (lambda p: p.call(aten.bitwise_not.default, visible(p)), I0 > I1),
    "logical not of numbers": (lambda p: p.call(aten.logical_not.default, keys(p)), sympy.Eq(I0, 0)),
    "ones": (lambda p: p.call(aten.ones.default, [2, 3], dtype=BOOL), sympy.true),
    "zeros": (lambda p: p.call(aten.zeros.default, [2, 3]), sympy.Integer(0)),
    "full": (lambda p: p.call(aten.full.default, [2, 3], -INF), -sympy.oo),
    "full, rounded": (lambda p: p.call(aten.full.default, [2], 0.1), sympy.Rational(torch.tensor(0.1).item())),
    "full_like": (lambda p: p.call(aten.full_like.default, keys(p), 7), sympy.Integer(7)),
    "new_full": (lambda p: p.call(aten.new_full.default, visible(p), [2], 1), sympy.true),
    "scalar_tensor": (lambda p: p.call(aten.scalar_tensor.default, 2.5), sympy.Rational(5, 2)),
    "cast of truths": (lambda p: p.call(aten._to_copy.default, visible(p), dtype=FLOAT), CHOICE),
    "cast to truths": (lambda p: p.call(aten._to_copy.default, keys(p), dtype=BOOL), sympy.Ne(I0, 0)),
    "cast and back": (
        lambda p: p.call(aten._to_copy.default, p.call(aten._to_copy.default, visible(p), dtype=FLOAT), dtype=BOOL),
        I0 <= I1,
    ),
    "one minus": (
        lambda p: p.call(aten.rsub.Scalar, p.call(aten._to_copy.default, visible(p), dtype=FLOAT), 1.0),
        sympy.Piecewise((0, I0 <= I1), (1, True)),
    ),
    "where of numbers": (
        lambda p: p.call(aten.where.Scalar, visible(p), 0.0, -INF),
        sympy.Piecewise((0, I0 <= I1), (-sympy.oo, True)),
    ),
    "where of truths": (
        lambda p: p.call(aten.where.self, visible(p), *(p.constant(torch.full((4, 4), b)) for b in (True, False))),
        I0 <= I1,
    ),
    "masked_fill": (
        lambda p: p.call(aten.masked_fill.Scalar, p.call(aten.zeros.default, [4, 4]), visible(p), -1e4),
        sympy.Piecewise((-10000, I0 <= I1), (0, True)),
    ),
    "tril": (lambda p: p.call(aten.tril.default, p.call(aten.ones.default, [3, 4], dtype=BOOL)), I0 - I1 <= 0),
    "triu": (lambda p: p.call(aten.triu.default, p.call(aten.ones.default, [3, 4], dtype=BOOL), 1), I0 - I1 >= 1),
    "triu of numbers": (
        lambda p: p.call(aten.triu.default, p.call(aten.full.default, [3, 4], -INF), 1),
        sympy.Piecewise((-sympy.oo, I0 - I1 >= 1), (0, True)),
    ),
    "index": (lambda p: p.call(aten.index.Tensor, visible(p), [keys(p), queries(p)]), I1 <= I0),
    "index one axis": (lambda p: p.call(aten.index.Tensor, arange(p, 9), [queries(p)]), I1),
    "cumsum": (lambda p: p.call(aten.cumsum.default, p.call(aten.ones.default, [4], dtype=INT), 0), I0 + 1),
    "cumsum of truths": (lambda p: p.call(aten.cumsum.default, p.constant(torch.ones(3, 4, dtype=BOOL)), 0), I1 + 1),
    "cumsum of what varies elsewhere": (
        lambda p: p.call(aten.cumsum.default, p.call(aten.expand.default, keys(p), [3, 4]), 0),
        I0 * (I1 + 1),
    ),
    "diff": (
        lambda p: p.call(aten.diff.default, arange(p, 5), prepend=p.constant(torch.tensor([-1]))),
        sympy.Integer(1),
    ),
    "clone": (lambda p: p.call(aten.clone.default, keys(p)), I0),
    "alias": (lambda p: p.call(aten.alias.default, keys(p)), I0),
}


@pytest.mark.parametrize(("make", "expected"), DERIVED.values(), ids=list(DERIVED))
def test_formulas(make: Callable[[Program], Node], expected: Expression) -> None:
    found = formula_of(make)
    assert found is not None
    assert sympy.simplify(found) == sympy.simplify(expected) or sympy.Equivalent(found, expected) == sympy.true


CONSTANTS: list[tuple[torch.Tensor, Expression | None]] = [
    (torch.tensor(True), sympy.true),
    (torch.tensor([[2.5]]), sympy.Rational(5, 2)),
    (torch.zeros(2, 3), sympy.Integer(0)),
    (torch.full((3,), -INF), -sympy.oo),
    (torch.ones(2, 3, dtype=BOOL), sympy.true),
    (torch.arange(5), I0),
    (torch.arange(5, dtype=torch.int32)[None].expand(3, 5), I0),
    (torch.ones(3, 3, dtype=BOOL).tril(), I0 <= I1),
    (torch.ones(1, 1, 3, 5, dtype=BOOL).tril(), I0 <= I1),
    (torch.ones(2, 5, 3, dtype=BOOL).tril(), I0 <= I1),
    (torch.full((3, 3), -INF).triu(1), sympy.Piecewise((0, I0 <= I1), (-sympy.oo, True))),
    (torch.ones(3, 3, dtype=INT).tril(), CHOICE),
    # A single row or column is not a triangle, whatever it equals.
    (torch.ones(5, 1, dtype=BOOL), sympy.true),
    (torch.ones(1, 5, dtype=BOOL), sympy.true),
    (torch.zeros(5, 1, dtype=INT), sympy.Integer(0)),
    (torch.arange(5)[:, None], None),
    (torch.arange(5).flip(0), None),
    (torch.arange(1, 5), None),
    (torch.arange(2).bool(), None),
    (torch.arange(5.0), None),
    (torch.ones(3, 3, dtype=BOOL).triu(), None),
    (torch.ones(3, 3, dtype=BOOL).tril(-1), None),
    (torch.eye(3), None),
    (torch.tensor([[True, False], [True, True], [True, False]]), None),
    (torch.tensor(float("nan")), None),
    (torch.tensor([0.0, float("nan")]), None),
    (torch.empty(0), None),
    (torch.empty(3, 0, dtype=INT), None),
    (torch.zeros(2, dtype=torch.complex64), None),
    (torch.arange(300).to(torch.uint8), None),  # wraps around
    (torch.arange(300).to(torch.bfloat16), None),
]


@pytest.mark.parametrize(("tensor", "expected"), CONSTANTS, ids=lambda v: str(v).replace("\n", "")[:40])
def test_constants(tensor: torch.Tensor, expected: Expression | None) -> None:
    program = Program()
    node = program.constant(tensor)
    found = formula(program, node)
    assert found == expected or sympy.Equivalent(found, expected) == sympy.true
    known = IndexExpressions(program.graph)
    known.of(node)
    assert known.used == (set() if expected is None else {"c0"})


def test_row_of_a_triangle() -> None:
    """The first row of a triangle sees the first key; formulas of its one row do not name it."""
    found = formula_of(lambda p: p.constant(torch.ones(1, 5, dtype=BOOL).tril()))
    assert found is None or I1 not in found.free_symbols


def test_constant_that_is_written_to() -> None:
    program = Program()
    node = program.constant(torch.arange(4))
    program.graph.mutations = (Mutation("buffer", "c0"),)
    assert IndexExpressions(program.graph).of(node) is None


NONE: dict[str, Callable[[Program], Node]] = {
    "quotient rounded to zero": lambda p: p.call(aten.div.Tensor_mode, keys(p), 2, rounding_mode="trunc"),
    "quotient of no integers": lambda p: p.call(aten.div.Tensor_mode, keys(p), 2.5, rounding_mode="floor"),
    "quotient by what varies": lambda p: p.call(aten.floor_divide.default, keys(p), arange(p, 1, 5)),
    "quotient by less than one": lambda p: p.call(aten.floor_divide.default, keys(p), -2),
    "quotient in few bits": lambda p: p.call(aten.floor_divide.default, p.constant(torch.ones(2, dtype=torch.int8)), 2),
    "distance that wraps around": lambda p: p.call(
        aten.abs.default, p.constant(torch.tensor([-128], dtype=torch.int8))
    ),
    "input": lambda p: p.input(torch.arange(4)),
    "of an input": lambda p: p.call(aten.add.Tensor, p.input(torch.arange(4)), 1),
    "arange of floats": lambda p: arange(p, 4.0),
    "arange between integers": lambda p: arange(p, 0.5, 4.5, dtype=INT),
    "arange that wraps around": lambda p: arange(p, 300, dtype=torch.uint8),
    "add with alpha": lambda p: p.call(aten.add.Tensor, keys(p), queries(p), alpha=2),
    "add of truths": lambda p: p.call(aten.add.Tensor, visible(p), visible(p)),
    "floats that vary": lambda p: p.call(aten._to_copy.default, keys(p), dtype=torch.bfloat16),
    "floats that vary, by arithmetic": lambda p: p.call(aten.mul.Tensor, keys(p), 0.5),
    "sum that rounds": lambda p: p.call(aten.add.Tensor, p.call(aten.full.default, [2], 1.0), 1e-9),
    "inf - inf": lambda p: p.call(aten.add.Tensor, p.call(aten.full.default, [2], INF), -INF),
    "0 * inf": lambda p: p.call(aten.mul.Tensor, p.call(aten.zeros.default, [2]), INF),
    "NaN": lambda p: p.call(aten.full.default, [2], float("nan")),
    "compared with NaN": lambda p: p.call(aten.lt.Scalar, keys(p), float("nan")),
    "compared with a rounded number": lambda p: p.call(aten.eq.Scalar, p.call(aten.full.default, [2], 0.1), 0.1),
    "product that wraps around": lambda p: p.call(aten.mul.Tensor, keys(p), 2**62),
    "narrow integers": lambda p: p.call(aten._to_copy.default, keys(p), dtype=torch.int8),
    "index from the end": lambda p: p.call(aten.index.Tensor, arange(p, 4), [p.call(aten.sub.Tensor, arange(p, 4), 1)]),
    "index by truths": lambda p: p.call(aten.index.Tensor, arange(p, 4), [p.constant(torch.ones(4, dtype=BOOL))]),
    "index of one of two axes": lambda p: p.call(aten.index.Tensor, visible(p), [None, arange(p, 3)]),
    "slice from the end": lambda p: p.call(aten.slice.Tensor, arange(p, 4), 0, -2),
    "reshape that splits": lambda p: p.call(aten.reshape.default, arange(p, 4), [2, 2]),
    "cumsum of what varies": lambda p: p.call(aten.cumsum.default, arange(p, 4), 0),
    "cumsum of no axes": lambda p: p.call(aten.cumsum.default, p.constant(torch.tensor(3)), 0),
    "diff with two before": lambda p: p.call(
        aten.diff.default, arange(p, 4), prepend=p.constant(torch.tensor([-9, -1]))
    ),
    "diff with a step before": lambda p: p.call(aten.diff.default, arange(p, 4), prepend=p.constant(torch.tensor([7]))),
    "diff of truths": lambda p: p.call(
        aten.diff.default, p.constant(torch.ones(4, dtype=BOOL)), prepend=p.constant(torch.zeros(1, dtype=BOOL))
    ),
    "diff along rows": lambda p: p.call(aten.diff.default, visible(p), 1, 0),
    "diff twice": lambda p: p.call(aten.diff.default, arange(p, 4), 2, prepend=p.constant(torch.tensor([-1]))),
    "view as another dtype": lambda p: p.call(aten.view.dtype, p.call(aten.ones.default, [2]), torch.int32),
    "another operator": lambda p: p.call(aten.sgn.default, keys(p)),
}


@pytest.mark.parametrize("make", NONE.values(), ids=list(NONE))
def test_no_formula(make: Callable[[Program], Node]) -> None:
    assert formula_of(make) is None


def test_plain_values() -> None:
    known = IndexExpressions(Program().graph)
    assert known.of(True) == sympy.true
    assert known.of(3) == 3
    assert known.of(0.5) == sympy.Rational(1, 2)
    assert known.of(-INF) == -sympy.oo
    assert known.of(float("nan")) is None
    assert known.of("text") is None
    assert known.of(None) is None


def test_dynamic_sizes_are_symbols() -> None:
    def function(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        s = x.shape[1]
        return torch.arange(s) + s, torch.arange(64)[s:], torch.arange(s)[None] <= torch.arange(s)[:, None]

    graph = graph_of(function, torch.ones(2, 5), dynamic_shapes=({1: Dim("S", max=32)},))
    known = IndexExpressions(graph)
    size = graph.inputs[0].meta["val"].shape[1].node.expr
    shifted, tail, causal = (known.of(value) for value in graph.outputs)
    assert shifted == I0 + size
    assert tail == I0 + size
    assert Window.of(causal) == CAUSAL


def test_dynamic_start_that_may_be_negative() -> None:
    function = lambda x: torch.arange(64)[64 - x.shape[1] :]  # noqa: E731
    graph = graph_of(function, torch.ones(2, 5), dynamic_shapes=({1: Dim("S", max=32)},))
    assert IndexExpressions(graph).of(graph.outputs[0]) is None


def test_depth_and_size() -> None:
    """A graph deeper than the stack is fine; a formula too large to be a mask is dropped before it grows."""
    program = Program()
    deep = large = keys(program)
    for step in range(1200):
        deep = program.call(aten.add.Tensor, deep, step % 2)
    assert IndexExpressions(program.graph).of(deep) == I0 + 600
    for step in range(40):
        condition = program.call(aten.le.Scalar, large, step)
        large = program.call(aten.where.self, condition, large, program.call(aten.add.Tensor, large, 1))
    assert IndexExpressions(program.graph).of(large) is None


def test_a_mask_function_mapped_over_the_indices() -> None:
    """As transformers makes masks, with packed sequences that are not packed."""

    class Packed(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            positions = torch.arange(x.shape[1]).expand(x.shape[0], -1)
            first = positions[:, :1] - 1
            sequence = (torch.diff(positions, prepend=first, dim=-1) != 1).cumsum(-1)
            rows = torch.arange(x.shape[0])[:, None, None]
            q, k = torch.arange(x.shape[1])[None, :, None], torch.arange(x.shape[1])[None, None, :]
            return (sequence[rows, q] == sequence[rows, k]) & (k <= q)

    graph = graph_of(Packed(), torch.ones(3, 4))
    (output,) = graph.outputs
    assert Window.of(IndexExpressions(graph).of(output)) == CAUSAL


# Any chain of operators: a formula that is given is right.

SIZES = st.sampled_from([0, 1, 1, 2, 3, 4])
NUMBERS = st.sampled_from([0, 1, 2, -1, -3, 7, True, 0.0, 0.5, -0.0, 0.1, 3.0, -1e4, 1e30, INF, -INF, float("nan")])
DTYPES = st.sampled_from([BOOL, INT, INT, FLOAT, torch.int32, torch.uint8, torch.float16, torch.bfloat16])
LEAVES = st.sampled_from(["arange", "ones", "zeros", "full", "triangle", "count", "noise", "number"])
UNARY = st.sampled_from(["unsqueeze", "expand", "slice", "transpose", "cast", "cumsum", "diff", "triangle", "reshape"])
AGAINST = [
    getattr(getattr(aten, name), overload)
    for name in ("add", "sub", "mul", "le", "lt", "ge", "gt", "eq", "ne")
    for overload in ("Tensor", "Scalar")
]
BETWEEN = [
    *(o for o in AGAINST if "Tensor" in o.name()),
    aten.floor_divide.default,
    *(aten.bitwise_and.Tensor, aten.bitwise_or.Tensor, aten.logical_and.default, aten.logical_or.default),
]
ALONE = [aten.abs.default, aten.bitwise_not.default, aten.logical_not.default, aten.clone.default, aten.alias.default]
FILLED = [aten.ones_like.default, aten.zeros_like.default]


def leaf(p: Program, draw: Any) -> Node:
    kind, dtype = draw(LEAVES), draw(DTYPES)
    shape = draw(st.lists(SIZES, max_size=3))
    if kind == "arange":
        start, count, step = draw(st.integers(-3, 3)), draw(SIZES), draw(st.sampled_from([1, 1, 2, -1]))
        return p.call(aten.arange.start_step, start, start + count * step, step, dtype=dtype if dtype != BOOL else INT)
    if kind in ("ones", "zeros"):
        return p.call(aten.ones.default if kind == "ones" else aten.zeros.default, shape, dtype=dtype)
    if kind in ("full", "number"):
        value = draw(NUMBERS)
        target, first = (
            (aten.full.default, (shape, value)) if kind == "full" else (aten.scalar_tensor.default, (value,))
        )
        return p.call(target, *first, dtype=draw(st.sampled_from([dtype, FLOAT])))
    if kind == "triangle":
        return p.constant(torch.ones([*shape[:1], draw(SIZES), draw(SIZES)]).tril(draw(st.integers(-1, 1))).to(dtype))
    if kind == "count":
        return p.constant(torch.arange(draw(SIZES)).expand(*shape[:1], -1).to(dtype))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 9)))
    return p.constant(torch.randint(-2, 3, shape, generator=generator).to(dtype))


def changed(p: Program, node: Node, draw: Any) -> Node:
    value, kind = node.meta["val"], draw(UNARY)
    axis = draw(st.integers(-value.ndim, max(value.ndim - 1, 0)))
    match kind:
        case "unsqueeze":
            return p.call(aten.unsqueeze.default, node, axis)
        case "expand":
            sizes = [draw(SIZES) if size == 1 else size for size in value.shape]
            return p.call(aten.expand.default, node, [*draw(st.lists(SIZES, max_size=1)), *sizes])
        case "slice":
            start = draw(st.sampled_from([None, 0, 1, 2, -1, -2, 5]))
            end, step = draw(st.sampled_from([None, 1, 3, -1, 9])), draw(st.sampled_from([1, 1, 2, 3]))
            return p.call(aten.slice.Tensor, node, axis, start, end, step)
        case "transpose":
            return p.call(aten.transpose.int, node, axis, draw(st.integers(-value.ndim, max(value.ndim - 1, 0))))
        case "cast":
            return p.call(aten._to_copy.default, node, dtype=draw(DTYPES))
        case "cumsum":
            return p.call(aten.cumsum.default, node, axis, dtype=draw(st.sampled_from([None, None, INT, FLOAT])))
        case "diff":
            first = p.call(aten.slice.Tensor, node, -1, 0, draw(st.sampled_from([1, 1, 2])))
            moved = p.call(aten.sub.Tensor, first, draw(st.integers(0, 2))) if value.dtype is not BOOL else first
            return p.call(aten.diff.default, node, draw(st.sampled_from([1, 1, 2])), axis, moved)
        case "triangle":
            target = draw(st.sampled_from([aten.tril.default, aten.triu.default]))
            return p.call(target, node, draw(st.integers(-2, 2)))
    sizes = [size for size in value.shape if size != 1 or draw(st.booleans())]
    sizes.insert(draw(st.integers(0, len(sizes))), 1)
    return p.call(aten.reshape.default, node, sizes)


def combined(p: Program, nodes: list[Node], draw: Any) -> Node:
    one, two, three = (draw(st.sampled_from(nodes)) for _ in range(3))
    match draw(st.integers(0, 7)):
        case 0:
            return p.call(draw(st.sampled_from(AGAINST)), one, draw(NUMBERS))
        case 1 | 2:
            return p.call(draw(st.sampled_from(BETWEEN)), one, two)
        case 3:
            return p.call(draw(st.sampled_from([*ALONE, *FILLED])), one)
        case 4:
            return p.call(aten.where.self, one, two, three)
        case 5:
            yes, no = draw(NUMBERS), draw(NUMBERS)
            target, args = draw(
                st.sampled_from(
                    [
                        (aten.where.Scalar, (yes, no)),
                        (aten.where.ScalarOther, (two, no)),
                        (aten.where.ScalarSelf, (yes, two)),
                    ]
                )
            )
            return p.call(target, one, *args)
        case 6:
            return p.call(aten.masked_fill.Scalar, one, two, draw(NUMBERS))
        case _:
            return p.call(aten.index.Tensor, one, [two, three][: one.meta["val"].ndim])


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(st.data())
def test_formulas_of_any_program(data: st.DataObject) -> None:
    program = Program()
    nodes = [visible(program, 3)]
    for _ in range(data.draw(st.integers(1, 8))):
        try:
            match data.draw(st.integers(0, 3)):
                case 0:
                    nodes.append(leaf(program, data.draw))
                case 1 | 2:
                    nodes.append(changed(program, data.draw(st.sampled_from(nodes)), data.draw))
                case _:
                    nodes.append(combined(program, nodes, data.draw))
        except (RuntimeError, IndexError, TypeError, ValueError):
            continue  # not a legal call
    for node in nodes:
        formula(program, node)
