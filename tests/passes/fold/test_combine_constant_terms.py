"""Constants of a sum or product are combined where that rounds no worse than eager, whatever the values are."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.export import Dim

import txgraph
from tests.helpers import EDGES, FLOATS, assert_numbers, normal, reasons, rewritten
from tests.small import apply, bits, graph_of, module, traced
from txgraph import Pipeline
from txgraph.ir import Graph, interpret
from txgraph.passes.fold.combine_constant_terms import CombineConstantTerms
from txgraph.verify import check_gates

RULE = CombineConstantTerms()
X, Y = normal(2, 3, 8), normal(3, 8)
C = {"c": normal(8), "d": normal(3, 8) / 2}

Tensor = torch.Tensor
Function = Callable[..., Tensor]


def only(graph: Graph) -> Tensor | float:
    """The constant of the only operator."""
    (call,) = graph.calls()
    (constant,) = (
        graph.constant(a) if isinstance(a, torch.fx.Node) else a for a in call.args if a is not graph.inputs[0]
    )
    assert constant is not None
    return constant


ORDERS: dict[str, Function] = {
    "left": lambda x, c, d: (x + c) + d,
    "right": lambda x, c, d: d + (c + x),
    "mixed": lambda x, c, d: d + (x + c),
}


@pytest.mark.parametrize("order", ORDERS)
def test_sums_in_any_order(order: str) -> None:
    after = rewritten(RULE, ORDERS[order], X, **C)
    assert after.count() == {"add": 1}
    assert list(after.constants) == ["c_and_d"]
    assert only(after).equal(C["c"] + C["d"])


def test_products_in_any_order() -> None:
    c, d = C["c"] / 9, C["d"] / 9
    for function in (lambda x, c, d: (x * c) * d, lambda x, c, d: d * (c * x), lambda x, c, d: d * (x * c)):
        after = rewritten(RULE, function, X, c=c, d=d)
        assert after.count() == {"mul": 1}
        assert only(after).equal((c.double() * d.double()).float())


def test_numbers() -> None:
    assert only(rewritten(RULE, lambda x: (x + 1.5) + 2, X)) == 3.5
    assert only(rewritten(RULE, lambda x: 0.5 * (x * -0.25), X)) == -0.125


def test_numbers_and_tensors() -> None:
    assert only(rewritten(RULE, lambda x, c: (x + 1.5) + c, X, c=C["c"])).equal((C["c"].double() + 1.5).float())
    assert only(rewritten(RULE, lambda x, c: x * 0.125 * c, X, c=C["c"])).equal((C["c"].double() * 0.125).float())


def test_many_constants() -> None:
    after = rewritten(RULE, lambda x, c, d: x + c + 1.0 + d + c, X, **C)
    assert after.count() == {"add": 1}
    assert only(after).equal((2 * C["c"].double() + C["d"].double() + 1.0).float())
    assert after.constants.frozen_values() == {"c", "d"}


def test_embeddings() -> None:
    """A row of token types and a table of positions, each added to all words; their signs vary."""
    types, positions = normal(1, 1, 64) / 20, normal(1, 32, 64) / 20
    after = rewritten(RULE, lambda x, c, d: (x + c) + d, normal(4, 32, 64) / 20, c=types, d=positions)
    assert after.count() == {"add": 1}
    assert only(after).equal((types.double() + positions.double()).float())


def test_terms_between_keep_their_places() -> None:
    after = rewritten(RULE, lambda x, y, c, d: ((x + c) + y) + d, X, Y, **C)
    assert after.count() == {"add": 2}
    first, second = after.calls()
    assert first.args[0] is after.inputs[0]
    assert after.constant(first.args[1]).equal(C["c"] + C["d"])
    assert second.args == (first, after.inputs[1])
    after = rewritten(RULE, lambda x, y, c, d: (x + c) + (y + d), X, X * 2, **C)
    assert after.count() == {"add": 2}


def test_sums_and_products_apart() -> None:
    """Each chain ends where the other begins."""
    after = rewritten(RULE, lambda x, c: (((x * 0.5) * 0.25) + c) + 1.0, X, c=C["c"])
    assert after.count() == {"add": 1, "mul": 1}
    assert [a for call in after.calls() for a in call.args if isinstance(a, float)] == [0.125]
    function = lambda x, c: ((x + c) * 2.0) + c  # noqa: E731
    assert reasons(RULE, function, X, c=C["c"]) == []


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_dtypes(dtype: torch.dtype) -> None:
    constants = {name: value.to(dtype) for name, value in C.items()}
    after = rewritten(RULE, ORDERS["left"], X.to(dtype), **constants)
    assert only(after).equal((constants["c"].double() + constants["d"].double()).to(dtype))
    constants = {name: (value / 8 + value.sign()).to(dtype) for name, value in C.items()}
    assert rewritten(RULE, lambda x, d: x * d * 2.0, X.to(dtype), d=constants["d"]).count() == {"mul": 1}


INTEGERS = [torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64]


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_integers_wrap_around(dtype: torch.dtype) -> None:
    high = torch.iinfo(dtype).max
    x = torch.tensor([0, 1, high, high // 2, torch.iinfo(dtype).min], dtype=dtype)
    c = torch.tensor([high, 3, high, 0, 1], dtype=dtype)
    for function in (
        lambda x, c: x + c + high + 7,
        lambda x, c: (x + high) + high,
        lambda x, c: (x * c) * c * 3,
        lambda x, c: (x * high) * high,
    ):
        graph = traced(function, x, c=c)
        after, rewrites = apply(RULE, graph)
        assert len(rewrites) == 1
        assert len(after.calls()) == 1
        assert interpret(after, [x])[0].equal(function(x, c))


@pytest.mark.parametrize("shape", [(8,), (1, 8), (3, 8), (0, 3, 8), (1, 1, 8)], ids=str)
def test_shapes(shape: tuple[int, ...]) -> None:
    c, d = normal(8), normal(1) + 1
    assert rewritten(RULE, ORDERS["left"], normal(*shape), c=c, d=d).count() == {"add": 1}


def test_sizes_of_zero_and_one() -> None:
    assert rewritten(RULE, ORDERS["left"], X[..., :0], c=normal(0), d=normal(3, 0)).count() == {"add": 1}
    assert rewritten(RULE, lambda x, c, d: x * c * d, X[..., :0], c=normal(0), d=normal(1)).count() == {"mul": 1}
    assert rewritten(RULE, ORDERS["left"], X, c=torch.tensor(1.5), d=torch.tensor(2.0)).count() == {"add": 1}


def test_a_constant_that_enlarges_first() -> None:
    """What the first constant enlarges may be enlarged by the new one."""
    assert rewritten(RULE, ORDERS["left"], normal(8), c=C["d"], d=C["d"] + 1).count() == {"add": 1}


@pytest.mark.parametrize("edge", [*EDGES, lambda x: x.index_fill(-1, torch.tensor(1), torch.finfo(x.dtype).max)])
def test_edge_values(edge: Callable[[Tensor], Tensor]) -> None:
    rewritten(RULE, ORDERS["left"], edge(X), **C)
    rewritten(RULE, lambda x: (x * 0.5) * 0.25, edge(X))
    rewritten(RULE, lambda x: (x * 2.0) * -4.0, edge(X))
    rewritten(RULE, lambda x, c: (x * c) * 0.0, edge(X), c=C["c"] / 9)
    rewritten(RULE, lambda x, c, d: (x + c) + d, edge(X), c=torch.full((8,), -0.0), d=C["c"])


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_values_that_cancel_a_constant(dtype: torch.dtype) -> None:
    """The worst case of the bound: eager is exact, and the new constant is rounded as much as can be."""
    eps = torch.finfo(dtype).eps
    big, small = torch.tensor(2.9 if eps < 1e-6 else 1.0 - eps, dtype=dtype), torch.tensor(1.0 + eps, dtype=dtype)
    c, d = big.expand(8).clone(), small.expand(8).clone()
    x = -big * (1 + eps * torch.arange(24, dtype=dtype).reshape(3, 8))
    rewritten(RULE, ORDERS["left"], x, c=c, d=d)


def test_dynamic_sizes() -> None:
    held = {name: nn.Buffer(value) for name, value in (("c", normal(8)), ("d", normal(1, 8)))}
    model = module(lambda x: (x + held["c"]) + held["d"], **held)
    after, rewrites = apply(RULE, graph_of(model, X, dynamic_shapes=({0: Dim("B"), 1: Dim("S")},)))
    assert len(rewrites) == 1
    assert after.count() == {"add": 1}
    for b, s in ((2, 3), (4, 2), (3, 17)):
        torch.testing.assert_close(interpret(after, [normal(b, s, 8)])[0], model(normal(b, s, 8)))


def test_the_models_constants_stay_as_they_are() -> None:
    held = {name: value.clone() for name, value in C.items()}
    graph = traced(ORDERS["left"], X, **C)
    after, _ = apply(RULE, graph)
    for name, value in held.items():
        assert graph.constants[name] is C[name]
        assert bits(C[name]).equal(bits(value))
    assert graph.constants.frozen_values() == frozenset()
    assert after.constants.frozen_values() == {"c", "d"}


def test_a_change_in_place_is_noticed() -> None:
    held = {name: nn.Parameter(value.clone()) for name, value in C.items()}
    model = module(lambda x: (x.relu() + held["c"]) + held["d"], **held)
    fast = txgraph.optimize(model, args=(X,), passes=Pipeline((RULE,)), backend="reference")
    assert fast.graph_after.count() == {"add": 1, "relu": 1}
    with torch.no_grad():
        held["d"].mul_(3)
    torch.testing.assert_close(fast(X), model(X))


def test_what_it_records() -> None:
    after, (rewrite,) = apply(RULE, traced(ORDERS["left"], X, **C))
    assert rewrite.rule == "combine-constant-terms"
    assert rewrite.removed == ("add", "add_1")
    assert set(rewrite.made) == {n.name for n in after.nodes if n.op in ("call_function", "get_attr")}


# Near misses.


def test_one_constant() -> None:
    assert reasons(RULE, lambda x, y, c: (x + c) + y, X, Y, c=C["c"]) == []


def test_an_inner_value_used_elsewhere() -> None:
    def function(x: Tensor, c: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
        inner = x + c
        return inner + d, inner

    assert apply(RULE, traced(function, X, **C))[1] == []

    def doubled(x: Tensor, c: Tensor, d: Tensor) -> Tensor:
        inner = x + c + d
        return inner + inner

    after = rewritten(RULE, doubled, X, **C)
    assert after.count() == {"add": 2}


def test_alpha() -> None:
    assert apply(RULE, traced(lambda x, c, d: torch.add(x + c, d, alpha=2), X, **C))[1] == []
    assert apply(RULE, traced(lambda x, c, d: torch.add(x, c, alpha=2) + d, X, **C))[1] == []


def test_constants_that_are_inputs() -> None:
    assert apply(RULE, traced(lambda x, c, d: (x + c) + d, X, C["c"], d=C["d"]))[1] == []


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("c", C["c"].clone())
        self.d = nn.Parameter(C["d"])

    def forward(self, x: Tensor) -> Tensor:
        result = (x + self.c) + self.d
        self.c.add_(1)
        return result


def test_constants_that_each_call_changes() -> None:
    graph = graph_of(Counting(), X)
    assert [m.target for m in graph.mutations] == ["c"]
    assert apply(RULE, graph)[1] == []


def test_mixed_dtypes() -> None:
    assert "mixes dtypes" in reasons(RULE, ORDERS["left"], X.bfloat16(), c=C["c"], d=C["d"])[0]
    assert "mixes dtypes" in reasons(RULE, ORDERS["left"], X, c=torch.tensor(1.5, dtype=torch.float64), d=C["d"])[0]
    assert "mixes dtypes" in reasons(RULE, lambda x: (x + 1.5) + 2.5, X.long())[0]


def test_truth_values_and_complex_numbers() -> None:
    truth = torch.tensor([True, False])
    assert "expected numbers" in reasons(RULE, ORDERS["left"], truth, c=truth, d=~truth)[0]
    assert "expected numbers" in reasons(RULE, lambda x: (x + 1.5) + 2.5, X.to(torch.complex64))[0]


def test_a_constant_that_enlarges_later() -> None:
    assert "enlarges the value" in reasons(RULE, ORDERS["left"], normal(8), c=C["c"], d=C["d"])[0]
    function = lambda x, y, c, d: ((x + c) + y) + d  # noqa: E731
    assert "enlarges the value" in reasons(RULE, function, normal(8), X, **C)[0]


def test_a_larger_constant() -> None:
    """A column and a row make a matrix."""
    held = {"c": normal(64, 1), "d": normal(64) * 2}
    assert "16384 bytes" in reasons(CombineConstantTerms(max_bytes=16383), ORDERS["left"], normal(64, 64), **held)[0]
    rewritten(CombineConstantTerms(max_bytes=16384), ORDERS["left"], normal(64, 64), **held)
    rewritten(CombineConstantTerms(max_bytes=0), ORDERS["left"], normal(64, 64), c=normal(64), d=normal(64) * 2)


def test_constants_that_cancel() -> None:
    """A sum with a large number and its opposite rounds to whole numbers: that is what it is for."""
    rounding = lambda x: (x + 1.5 * 2**23) + -1.5 * 2**23  # noqa: E731
    assert "the constants cancel" in reasons(RULE, rounding, X)[0]
    assert rounding(X).equal(X.round())
    assert "the constants cancel" in reasons(RULE, ORDERS["left"], X, c=C["c"], d=-0.9 * C["c"])[0]


def test_constants_of_different_sizes() -> None:
    """Where x cancels the large constant, the small one decides, and it would have lost its digits."""
    function = lambda x: (x + -1e4) + 0.3  # noqa: E731
    x = 1e4 + normal(8) / 100
    assert "values up to 0.3 would drown" in reasons(RULE, function, x)[0]
    eager, truth = function(x), (x.double() - 1e4) + 0.3
    assert all(gate.passed for gate in check_gates([eager], [eager], [truth]))
    assert not all(gate.passed for gate in check_gates([x + (-1e4 + 0.3)], [eager], [truth]))


def test_the_bounds_of_a_sum() -> None:
    assert rewritten(RULE, lambda x: (x + 3.0) + 1.0, X).count() == {"add": 1}
    assert "would drown" in reasons(RULE, lambda x: (x + 3.1) + 1.0, X)[0]
    assert rewritten(RULE, lambda x: (x + 1.0) + -0.75, X).count() == {"add": 1}
    assert "cancel" in reasons(RULE, lambda x: (x + 1.0) + -0.76, X)[0]
    assert rewritten(RULE, lambda x: (x + 1.0) + 1.0, X.half()).count() == {"add": 1}
    assert "would drown" in reasons(RULE, lambda x: (x + 1.1) + 1.0, X.half())[0]


def test_constants_that_are_not_finite() -> None:
    for value in (float("nan"), float("inf"), float("-inf")):
        assert "not finite" in reasons(RULE, lambda x: (x + value) + 1.0, X)[0]  # noqa: B023
        assert "not finite" in reasons(RULE, lambda x: (x * 2.0) * value, X)[0]  # noqa: B023
        broken = C["c"].index_fill(0, torch.tensor(1), value)
        assert "not finite" in reasons(RULE, ORDERS["left"], X, c=broken, d=C["d"])[0]


def test_sums_that_may_overflow() -> None:
    """In float16, 65504 + 20 is infinite, and 65504 + 20 - 15 need not be."""
    function = lambda x: (x + 20.0) + -15.0  # noqa: E731
    assert "may overflow" in reasons(RULE, function, X.half())[0]
    assert rewritten(RULE, function, X).count() == {"add": 1}
    x = torch.full((2,), 65504.0, dtype=torch.float16)
    assert function(x).isinf().all()
    assert not (x + 5.0).isinf().any()


def test_products_that_may_overflow() -> None:
    assert "a partial product may overflow" in reasons(RULE, lambda x: (x * 2.0) * 0.5, X)[0]
    assert "a partial product may overflow" in reasons(RULE, lambda x: (x * 4.0) * 0.5, X)[0]
    assert "a partial product may overflow" in reasons(RULE, lambda x: (x * 4.0) * 0.0, X)[0]
    assert rewritten(RULE, lambda x: (x * 0.5) * 2.0, X).count() == {"mul": 1}
    assert "not finite" in reasons(RULE, lambda x: (x * 1e20) * 1e20, X)[0]
    assert "not finite" in reasons(RULE, lambda x: (x * 300.0) * 300.0, X.half())[0]


def test_subnormal_products() -> None:
    for factor in (1e-20, 1e-30, 1e-200):
        assert "is subnormal" in reasons(RULE, lambda x: (x * factor) * factor, X)[0]  # noqa: B023
    assert "is subnormal" in reasons(RULE, lambda x: (x * 1e-200) * 1e-200, X.double())[0]


def test_variables_between_factors() -> None:
    """Not followed: x * y may be small enough for a constant that x alone is too large for."""
    assert apply(RULE, traced(lambda x, y: ((x * 3.0) * y) * 3.0, X, Y))[1] == []


def test_numbers_at_a_real_width() -> None:
    c, d = normal(256) / 20, normal(64, 256) / 20
    after, _ = apply(RULE, traced(ORDERS["left"], normal(2, 64, 256), c=c, d=d))
    for x in (normal(4, 64, 256) / 20, -c + normal(4, 64, 256) / 1e4, -c, -d):
        assert_numbers(after, ORDERS["left"], x.expand(4, 64, 256).contiguous(), c=c, d=d)
