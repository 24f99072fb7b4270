"""Three matrices are multiplied in the cheaper order, and only where it is known which one that is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product

import pytest
import sympy
import torch
import torch.nn.functional as F
from torch.export import Dim

from tests.helpers import assert_numbers, normal, reasons, rejections, rewritten
from tests.small import apply, find, graph_of, module, traced
from txgraph.ir import Graph, arguments, interpret, type_of
from txgraph.passes.layout.reassociate_matmuls import ReassociateMatmuls, _is_never_negative

RULE = ReassociateMatmuls()
X, A, B = normal(5, 16), normal(16, 2), normal(2, 16)  # x @ (a @ b): 1792 multiplications; (x @ a) @ b: 320
FLOATS = (torch.float32, torch.bfloat16, torch.float64)

Tensor = torch.Tensor
Function = Callable[..., Tensor]


def right(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return x @ (a @ b)


def left(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return (x @ a) @ b


def inner(graph: Graph) -> str:
    """The type of the product that comes first."""
    return str(type_of(next(n for n in graph.calls() if n.target in (torch.ops.aten.matmul.default, LINEAR))))


LINEAR = torch.ops.aten.linear.default


def test_the_right_product_first_becomes_the_left() -> None:
    after = rewritten(RULE, right, X, A, B)
    assert after.count() == {"matmul": 2}
    assert inner(after) == "f32[5, 2]"


def test_the_left_product_first_becomes_the_right() -> None:
    """Linear attention, written as if it were attention: 7 x 7 scores of 3 features."""
    q, k, v = normal(7, 3), normal(7, 3), normal(7, 3) + 1
    after = rewritten(RULE, lambda q, k, v: (q @ k.transpose(0, 1)) @ v, q, k, v)
    assert after.count() == {"matmul": 2, "transpose": 1}
    assert inner(after) == "f32[3, 3]"


def test_mm_and_bmm() -> None:
    after = rewritten(RULE, lambda x, a, b: torch.mm(x, torch.mm(a, b)), X, A, B)
    assert inner(after) == "f32[5, 2]"
    batch = [t[None].expand(3, *t.shape).contiguous() for t in (X, A, B)]
    after = rewritten(RULE, lambda x, a, b: torch.bmm(x, torch.bmm(a, b)), *batch)
    assert inner(after) == "f32[3, 5, 2]"


def test_linear_with_a_computed_weight() -> None:
    def function(x: Tensor, up: Tensor, down: Tensor, bias: Tensor) -> Tensor:
        return F.linear(x, up @ down, bias)

    after = rewritten(RULE, function, normal(3, 4, 16), up=normal(12, 2), down=normal(2, 16), bias=normal(12))
    assert after.count() == {"linear": 2}
    assert inner(after) == "f32[3, 4, 2]"
    assert [arguments(n)["bias"] is None for n in after.calls()] == [True, False]


def test_linears_with_a_wide_value_between() -> None:
    def function(x: Tensor, wide: Tensor, narrow: Tensor, bias: Tensor) -> Tensor:
        return F.linear(F.linear(x, wide), narrow, bias)

    weights = {"wide": normal(40, 4), "narrow": normal(6, 40), "bias": normal(6)}
    after = rewritten(RULE, function, normal(50, 4), **weights)
    assert after.count() == {"linear": 1, "matmul": 1}
    assert str(type_of(find(after, "matmul"))) == "f32[6, 4]"
    assert arguments(find(after, "linear"))["bias"].target == "bias"
    assert "not known to be fewer" in reasons(RULE, function, normal(2, 4), **weights)[0]


def test_linear_of_a_vector() -> None:
    function = lambda x, up, down: F.linear(x, up @ down)  # noqa: E731
    assert inner(rewritten(RULE, function, normal(16), normal(12, 2), normal(2, 16))) == "f32[2]"


def test_a_chain_of_four() -> None:
    """Each step takes fewer operations, so it ends."""
    after = rewritten(
        RULE, lambda x, a, b, c: x @ (a @ (b @ c)), normal(1, 9), normal(9, 8), normal(8, 7), normal(7, 6)
    )
    assert [str(type_of(n)) for n in after.calls()] == ["f32[1, 8]", "f32[1, 7]", "f32[1, 6]"]


BATCHES = [((3,), (3,), (3,)), ((3,), (), ()), ((), (3,), ()), ((), (), (3,)), ((4, 1), (3,), (1, 1)), ((2, 3),) * 3]


@pytest.mark.parametrize("batches", BATCHES, ids=str)
@pytest.mark.parametrize("function", [left, right])
def test_batches(function: Function, batches: tuple[tuple[int, ...], ...]) -> None:
    """What is chosen is what takes fewer operations, counted one by one."""
    for sizes in ((5, 16, 2, 16), (2, 3, 9, 2), (4, 4, 4, 4)):
        m, k, n, p = sizes
        shapes = [(*batch, *last) for batch, last in zip(batches, ((m, k), (k, n), (n, p)), strict=True)]
        inputs = [normal(*shape) for shape in shapes]
        counts = [sum(counted(traced(f, *inputs))) for f in (function, left, right)]
        after, rewrites = apply(RULE, traced(function, *inputs))
        assert bool(rewrites) == (counts[0] > min(counts))
        assert sum(counted(after)) == min(counts)
        assert_numbers(after, function, *inputs)


def counted(graph: Graph) -> Iterator[int]:
    for node in graph.calls():
        yield node.meta["val"].numel() * node.args[0].meta["val"].shape[-1]


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("function", [left, right])
def test_dtypes(function: Function, dtype: torch.dtype) -> None:
    sizes = (64, 64, 8, 64) if function is right else (64, 8, 64, 8)
    m, k, n, p = sizes
    inputs = [normal(m, k, dtype=dtype), normal(k, n, dtype=dtype), normal(n, p, dtype=dtype) + 1]
    after = rewritten(RULE, function, *inputs)
    assert inner(after).endswith("[64, 8]" if function is right else "[8, 8]")


EDGES: list[Callable[[Tensor], Tensor]] = [
    lambda x: x * 0,
    lambda x: x * -0.0,
    lambda x: x * 1e20,
    lambda x: x * 1e-40,
    lambda x: x.index_fill(0, torch.tensor(1), float("nan")),
    lambda x: x.index_fill(1, torch.tensor(1), float("nan")),
]


@pytest.mark.parametrize("edge", EDGES)
def test_edge_values(edge: Callable[[Tensor], Tensor]) -> None:
    for at in range(3):
        rewritten(RULE, right, *[edge(t) if i == at else t for i, t in enumerate((X, A, B))])


def test_infinite_values_stay_visible() -> None:
    """Infinities of two signs meet in other places than in eager, so one order may have NaN where the other has not."""
    after, _ = apply(RULE, traced(right, X, A, B))
    for at in range(3):
        inputs = [t.clone() for t in (X, A, B)]
        inputs[at][1, 1] = float("inf")
        (result,) = interpret(after, inputs)
        assert result.isfinite().equal(right(*inputs).isfinite())
        assert not result.isfinite().all()


def test_empty_results() -> None:
    for shapes in (((0, 16), (16, 2), (2, 16)), ((5, 16), (16, 2), (2, 0)), ((0, 5, 16), (16, 2), (2, 16))):
        inputs = [normal(*shape) for shape in shapes]
        assert_numbers(apply(RULE, traced(right, *inputs))[0], right, *inputs)


# Sizes that vary.

SCORES = [(2, 40, False), (16, 400, True), (7, None, False), (8, None, True)]


@pytest.mark.parametrize(("low", "high", "fewer"), SCORES)
def test_sizes_in_a_range(low: int, high: int | None, fewer: bool) -> None:
    """Products of tokens by tokens take no less than those of 8 features by 8 if, and only if, there are 8 or more."""
    graph = graph_of(
        lambda q, k, v: (q @ k) @ v,
        normal(2, 20, 8),
        normal(2, 8, 20),
        normal(2, 20, 8),
        dynamic_shapes=tuple({0: Dim("B"), axis: Dim("S", min=low, max=high)} for axis in (1, 2, 1)),
    )
    after, rewrites = apply(RULE, graph)
    assert bool(rewrites) == fewer
    for b, s in ((2, max(low, 2)), (3, high or 100)):
        inputs = [normal(b, s, 8), normal(b, 8, s), normal(b, s, 8) + 1]
        torch.testing.assert_close(interpret(after, inputs)[0], inputs[0] @ inputs[1] @ inputs[2], rtol=1e-4, atol=1e-3)


def test_a_low_rank_weight_for_any_number_of_tokens() -> None:
    weights = {"up": torch.nn.Parameter(normal(12, 2)), "down": torch.nn.Parameter(normal(2, 16))}
    model = module(lambda x: F.linear(x, weights["up"] @ weights["down"]), **weights)
    graph = graph_of(model, normal(2, 3, 16), dynamic_shapes=({0: Dim("B"), 1: Dim("S")},))
    after, rewrites = apply(RULE, graph)
    assert len(rewrites) == 1
    assert after.count() == {"linear": 2}
    for b, s in ((2, 3), (5, 7)):
        torch.testing.assert_close(interpret(after, [normal(b, s, 16)])[0], model(normal(b, s, 16)))


def test_the_proof_agrees_with_counting() -> None:
    """What is called never negative is not, and what varies in sign is never called so."""
    b, s = sympy.symbols("b s", integer=True)
    polynomials = [b * s - 3 * b, s * s - 4 * s, b * s * s - 9 * b, 7 - s, b - s, s * s - 3 * s + 3, sympy.Integer(-1)]
    polynomials += [b * (s + 1) - 3, -b, sympy.Integer(2), 2 * s * s * b - 3 * b * s + b, (b - 2) * (s - 2)]
    proven = true = 0
    for value, (low, high) in product(polynomials, [(1, 6), (2, 9), (3, 3), (4, 6), (0, 5)]):
        ranges = {"b": (low, high), "s": (low, high)}
        values = [value.subs({b: i, s: j}) for i in range(low, high + 1) for j in range(low, high + 1)]
        if _is_never_negative(value, ranges):
            assert min(values) >= 0
            proven += 1
        true += bool(min(values) >= 0)
    assert (proven, true) == (28, 31)
    assert not _is_never_negative(b // 2, {"b": (1, None)})  # no polynomial
    assert not _is_never_negative(b - 1, {})  # without a range a size may be zero


# Near misses.


def test_the_other_order_is_the_cheaper() -> None:
    assert "not known to be fewer multiplications: 320 before, 1792 after" in reasons(RULE, left, X, A, B)[0]
    square = [normal(4, 4)] * 3
    for function in (left, right):
        assert "128 before, 128 after" in reasons(RULE, function, *square)[0]


def test_an_inner_product_used_elsewhere() -> None:
    def function(x: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        product = a @ b
        return x @ product, product

    assert "is also used by %output" in reasons(RULE, function, X, A, B)[0]

    def of_linears(x: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        hidden = F.linear(x, a)
        return F.linear(hidden, b), hidden

    assert "is also used by %output" in reasons(RULE, of_linears, normal(50, 4), a=normal(40, 4), b=normal(6, 40))[0]


def test_integers() -> None:
    assert "expected floats" in rejections(RULE, right, X.long(), A.long(), B.long())[0]


def test_float16() -> None:
    """(x @ a) @ b is infinite here, and x @ (a @ b) is not."""
    assert "may exceed the range of float16" in reasons(RULE, right, X.half(), A.half(), B.half())[0]
    x, a, b = torch.full((1, 16), 64.0), torch.full((16, 2), 100.0), torch.full((2, 16), 0.01)
    assert right(x.half(), a.half(), b.half()).isfinite().all()
    assert not left(x.half(), a.half(), b.half()).isfinite().any()


def test_vectors() -> None:
    for inputs in ((X[0], A, B), (X, A, B[:, 0])):
        assert "expected matrices" in reasons(RULE, right, *inputs)[0]
    assert (
        "expected matrices"
        in reasons(RULE, lambda x, a, b: F.linear(F.linear(x, a), b), X, normal(4, 16), normal(4))[0]
    )


def test_empty_contractions() -> None:
    """Zero times infinity is NaN; an empty sum in the other order is zero."""
    assert "contracted axis may be empty" in reasons(RULE, right, X, A[:, :0], B[:0])[0]
    assert "contracted axis may be empty" in reasons(RULE, left, X[:, :0], A[:0], B)[0]
    infinite = torch.full_like(X, float("inf"))
    assert right(infinite, A[:, :0], B[:0]).isnan().all()
    assert not left(infinite, A[:, :0], B[:0]).isnan().any()


def test_a_linear_with_a_bias_between() -> None:
    function = lambda x, a, b, c: F.linear(F.linear(x, a, c), b)  # noqa: E731
    found = reasons(RULE, function, normal(50, 4), a=normal(40, 4), b=normal(6, 40), c=normal(40))
    assert any("linear has bias=" in reason for reason in found)
