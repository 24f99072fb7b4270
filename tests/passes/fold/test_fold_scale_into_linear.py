"""Factors and terms around a linear become part of its weight and bias, where that is as exact as eager."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.export import Dim

import txgraph
from tests.helpers import EDGES, FLOATS, assert_numbers, normal, reasons, rewritten
from tests.small import apply, bits, find, graph_of, module, traced
from txgraph.ir import arguments
from txgraph.passes.fold.fold_scale_into_linear import FoldScaleIntoLinear

RULE = FoldScaleIntoLinear()
X, W, B, V = normal(2, 3, 8), normal(5, 8), normal(5), normal(5) - 1
ROWS, COLUMNS = normal(5) + 2, normal(8) + 2  # one factor for each output, or each input

Tensor = torch.Tensor


def after(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return F.linear(x, w, b) * 0.125


def before(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return F.linear(0.125 * x, w, b)


def held(graph: txgraph.ir.Graph, name: str) -> Tensor:
    """The constant that is the weight or bias of the only linear."""
    return graph.constants[str(arguments(find(graph, "linear"))[name].target)]


def test_number_after() -> None:
    graph = rewritten(RULE, after, X, w=W, b=B)
    assert graph.count() == {"linear": 1}
    assert sorted(graph.constants) == ["b_folded", "w_folded"]
    assert held(graph, "weight").equal(W / 8)
    assert held(graph, "bias").equal(B / 8)


def test_number_before() -> None:
    graph = rewritten(RULE, before, X, w=W, b=B)
    assert graph.count() == {"linear": 1}
    assert sorted(graph.constants) == ["b", "w_folded"]
    assert held(graph, "weight").equal(W / 8)
    assert held(graph, "bias") is B


def test_without_bias() -> None:
    for function in (lambda x, w: 3.0 * F.linear(x, w), lambda x, w: F.linear(x * 3, w)):
        graph = rewritten(RULE, function, X, w=W)
        assert graph.count() == {"linear": 1}
        assert held(graph, "weight").equal(W * 3)
        assert arguments(find(graph, "linear"))["bias"] is None


@pytest.mark.parametrize("shape", [(5,), (1, 5), (1, 1, 5)], ids=str)
def test_vector_after(shape: tuple[int, ...]) -> None:
    graph = rewritten(RULE, lambda x, w, b, c: F.linear(x, w, b) * c, X, w=W, b=B, c=ROWS.view(shape))
    assert graph.count() == {"linear": 1}
    assert held(graph, "weight").equal(W * ROWS[:, None])
    assert held(graph, "bias").equal(B * ROWS)


@pytest.mark.parametrize("shape", [(8,), (1, 8), (1, 1, 8)], ids=str)
def test_vector_before(shape: tuple[int, ...]) -> None:
    graph = rewritten(RULE, lambda x, w, b, c: F.linear(c * x, w, b), X, w=W, b=B, c=COLUMNS.view(shape))
    assert graph.count() == {"linear": 1}
    assert held(graph, "weight").equal(W * COLUMNS)
    assert held(graph, "bias") is B


def test_vector_of_a_square_weight_stands_on_its_own_axis() -> None:
    w, c = normal(8, 8), COLUMNS
    assert held(rewritten(RULE, lambda x, w, c: F.linear(x, w) * c, X, w=w, c=c), "weight").equal(w * c[:, None])
    assert held(rewritten(RULE, lambda x, w, c: F.linear(x * c, w), X, w=w, c=c), "weight").equal(w * c)


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.int64], ids=str)
def test_constant_of_one_element(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    c = torch.full(shape, 3, dtype=dtype)
    for function in (lambda x, w, b, c: F.linear(x, w, b) * c, lambda x, w, b, c: F.linear(x * c, w, b)):
        graph = rewritten(RULE, function, X, w=W, b=B, c=c)
        assert graph.count() == {"linear": 1}
        assert held(graph, "weight").equal(W * 3)


def test_term_without_bias() -> None:
    """Nothing is computed: the term is the bias."""
    graph = rewritten(RULE, lambda x, w, v: F.linear(x, w) + v, X, w=W, v=V)
    assert graph.count() == {"linear": 1}
    assert held(graph, "weight") is W
    assert held(graph, "bias") is V
    assert graph.constants.frozen_values() == frozenset()


def test_term_and_bias() -> None:
    graph = rewritten(RULE, lambda x, w, b, v: v + F.linear(x, w, b), X, w=W, b=B, v=V)
    assert graph.count() == {"linear": 1}
    assert held(graph, "weight") is W
    assert held(graph, "bias").equal(B + V)
    assert graph.constants.frozen_values() == {"b", "v"}


def test_term_with_a_weight_that_is_computed_or_used_twice() -> None:
    """The weight stays as it is."""
    assert rewritten(RULE, lambda x, w, v: F.linear(x, w) + v, X, W, v=V).count() == {"linear": 1}
    twice = lambda x, w, v: (F.linear(x, w) + v, F.linear(x * x, w))  # noqa: E731
    assert rewritten(RULE, twice, X, w=W, v=V).count() == {"linear": 2, "mul": 1}


def test_several_around_one_linear() -> None:
    def function(x: Tensor, w: Tensor, b: Tensor, c: Tensor, d: Tensor, v: Tensor) -> Tensor:
        return (F.linear(x * d * 2, w, b) * c + v) * 0.5

    graph = rewritten(RULE, function, X, w=W, b=B, c=ROWS, d=COLUMNS, v=V)
    assert graph.count() == {"linear": 1}
    torch.testing.assert_close(held(graph, "weight"), W * ROWS[:, None] * COLUMNS)
    torch.testing.assert_close(held(graph, "bias"), (B * ROWS + V) / 2)
    assert graph.constants.frozen_values() == {"w", "b", "c", "d", "v"}


def test_each_of_two_linears() -> None:
    function = lambda x, w, u: F.linear(F.linear(x, w) * 2.0, u) * 3.0  # noqa: E731
    assert rewritten(RULE, function, X, w=W, u=normal(4, 5)).count() == {"linear": 2}


def test_is_rounded_once() -> None:
    """Nearer to the product of the real numbers than any other float32 number is."""
    w = normal(64, 64)
    graph = rewritten(RULE, lambda x, w: F.linear(x, w) * 0.1, normal(3, 64), w=w)
    assert held(graph, "weight").equal((w.double() * 0.1).float())
    assert not held(graph, "weight").equal(w * torch.tensor(0.1))


def test_the_models_weights_stay_as_they_are() -> None:
    w, b = W.clone(), B.clone()
    graph = traced(after, X, w=w, b=b)
    folded, _ = apply(RULE, graph)
    assert graph.constants["w"] is w
    assert bits(w).equal(bits(W))
    assert bits(b).equal(bits(B))
    assert held(folded, "weight").untyped_storage().data_ptr() != w.untyped_storage().data_ptr()


def test_the_new_weights_know_their_sources() -> None:
    scaled = lambda x, w, b, c: F.linear(x, w, b) * c  # noqa: E731
    graph = traced(scaled, X, w=W, b=B, c=ROWS)
    assert graph.constants.frozen_values() == frozenset()
    folded, _ = apply(RULE, graph)
    assert folded.constants.frozen_values() == {"w", "b", "c"}
    assert folded.constants.sources == {"w_folded": {"w", "c"}, "b_folded": {"b", "c"}}


@pytest.mark.parametrize("changed", ["weight", "scale"])
def test_a_real_model_notices_a_change_in_place(changed: str) -> None:
    torch.manual_seed(0)
    layer, scale = nn.Linear(8, 5), nn.Parameter(ROWS.clone())
    model = module(lambda x: layer(x) * scale, layer=layer, scale=scale)
    pipeline = txgraph.Pipeline((RULE,))
    fast = txgraph.optimize(model, backend="reference", passes=pipeline)
    torch.testing.assert_close(fast(X), model(X))
    assert fast.graph_after.count() == {"linear": 1}
    with torch.no_grad():
        (layer.weight if changed == "weight" else scale).mul_(2)
    torch.testing.assert_close(fast(X), model(X))


SHAPES = [(8,), (1, 8), (0, 8), (2, 0, 8), (13, 8), (2, 3, 5, 8)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_shapes(shape: tuple[int, ...]) -> None:
    for function in (after, before):
        assert rewritten(RULE, function, normal(*shape), w=W, b=B).count() == {"linear": 1}


@pytest.mark.parametrize(("outputs", "inputs"), [(1, 8), (0, 8), (5, 0), (1, 1)])
def test_sizes_of_the_weight(outputs: int, inputs: int) -> None:
    x, w, b = normal(2, inputs), normal(outputs, inputs), normal(outputs)
    for function in (after, before):
        assert rewritten(RULE, function, x, w=w, b=b).count() == {"linear": 1}
    rows = lambda x, w, b, c: F.linear(x, w, b) * c  # noqa: E731
    assert rewritten(RULE, rows, x, w=w, b=b, c=normal(outputs) + 2).count() == {"linear": 1}


@pytest.mark.parametrize("shape", [(1,), ()], ids=str)
def test_bias_that_broadcasts(shape: tuple[int, ...]) -> None:
    b = normal(*shape)
    assert rewritten(RULE, after, X, w=W, b=b).count() == {"linear": 1}
    assert rewritten(RULE, before, X, w=W, b=b).count() == {"linear": 1}
    scaled = lambda x, w, b, c: F.linear(x, w, b) * c  # noqa: E731
    assert rewritten(RULE, scaled, X, w=W, b=b, c=ROWS).count() == {"linear": 1}
    moved = lambda x, w, b, v: F.linear(x, w, b) + v  # noqa: E731
    assert rewritten(RULE, moved, X, w=W, b=b, v=V).count() == {"linear": 1}


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("factor", [8.0, 0.125, -1.0, 0.0])
def test_powers_of_two_in_every_dtype(dtype: torch.dtype, factor: float) -> None:
    w, b = (v + v.sign() / 64 for v in (normal(32, 64), normal(32)))  # none so small that it gets subnormal
    x, w, b = normal(16, 64).to(dtype), w.to(dtype), b.to(dtype)
    for function in (lambda x, w, b: F.linear(x, w, b) * factor, lambda x, w, b: F.linear(x * factor, w, b)):
        graph = rewritten(RULE, function, x, w=w, b=b)
        assert graph.count() == {"linear": 1}
        assert held(graph, "weight").dtype == dtype


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("factor", [0.1, 3.0, -1e-6, 1e6, 64**-0.5 / 3])
def test_other_factors_in_32_and_64_bits(dtype: torch.dtype, factor: float) -> None:
    x, w, b = normal(16, 64).to(dtype), normal(32, 64).to(dtype), normal(32).to(dtype)
    for function in (lambda x, w, b: F.linear(x, w, b) * factor, lambda x, w, b: F.linear(x * factor, w, b)):
        assert rewritten(RULE, function, x, w=w, b=b).count() == {"linear": 1}


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_terms_in_every_dtype(dtype: torch.dtype) -> None:
    x, w, v = normal(16, 64).to(dtype), normal(32, 64).to(dtype), normal(32).to(dtype)
    assert rewritten(RULE, lambda x, w, v: F.linear(x, w) + v, x, w=w, v=v).count() == {"linear": 1}


@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize("factor", [2.0, -0.3, 0.0])
def test_edge_values(edge: Callable[[Tensor], Tensor], factor: float) -> None:
    """With weights of zero among others: infinity times zero is NaN, before and after."""
    w = W.index_fill(1, torch.tensor(2), 0.0).index_fill(0, torch.tensor(3), -0.0)
    c = ROWS.index_fill(0, torch.tensor(1), 0.0)
    functions = (
        lambda x, w, b, c, v: F.linear(x, w, b) * factor,
        lambda x, w, b, c, v: F.linear(x * factor, w, b),
        lambda x, w, b, c, v: F.linear(x, w, b) * c,
        lambda x, w, b, c, v: F.linear(x, w, b) + v,
    )
    for function in functions:
        assert rewritten(RULE, function, edge(X), w=w, b=B, c=c, v=V).count() == {"linear": 1}


def test_float16_that_overflows_between() -> None:
    """Eager's value between is infinite, and so is its result; the folded one is right."""
    x, w = torch.full((2, 8), 100.0).half(), torch.full((5, 8), 100.0).half()
    function = lambda x, w: F.linear(x, w) * 0.125  # noqa: E731
    folded, _ = apply(RULE, traced(function, x, w=w))
    assert function(x, w).isinf().all()
    assert txgraph.ir.interpret(folded, [x])[0].equal(torch.full((2, 5), 1e4).half())


@pytest.mark.parametrize("layout", ["transposed", "expanded", "sliced"])
def test_inputs_of_any_layout(layout: str) -> None:
    x = {
        "transposed": normal(3, 2, 8).transpose(0, 1),
        "expanded": normal(1, 1, 8).expand(2, 3, 8),
        "sliced": normal(5, 4, 17)[1::2, 1:, 1::2],
    }[layout]
    for function in (after, before):
        folded, _ = apply(RULE, traced(function, X, w=W, b=B))
        assert_numbers(folded, function, x, w=W, b=B)


def test_dynamic_sizes() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(8, 5)
    model = module(lambda x: layer(x * 0.3) * 0.2 + layer.bias, layer=layer)
    folded, _ = apply(RULE, graph_of(model, X, dynamic_shapes=({0: Dim("B"), 1: Dim("S")},)))
    assert folded.count() == {"linear": 1}
    for b, s in ((2, 3), (5, 2), (4, 17)):
        x = normal(b, s, 8)
        torch.testing.assert_close(txgraph.ir.interpret(folded, [x])[0], model(x))


def test_what_it_records() -> None:
    folded, (rewrite,) = apply(RULE, traced(after, X, w=W, b=B))
    assert rewrite.rule == "fold-scale-into-linear"
    assert rewrite.removed == ("mul", "linear")
    assert set(rewrite.made) <= {n.name for n in folded.nodes}


# What must not be folded, and why.


def test_inner_value_used_elsewhere() -> None:
    def linear(x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        y = F.linear(x, w)
        return y * 2.0, y.neg()

    def product(x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        y = x * 2.0
        return F.linear(y, w), y.neg()

    def sum_(x: Tensor, w: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        y = F.linear(x, w)
        return y + v, y.neg()

    assert reasons(RULE, linear, X, w=W)[0] == "inner value %linear is also used by %neg"
    assert reasons(RULE, product, X, w=W)[0] == "inner value %mul is also used by %neg"
    assert reasons(RULE, sum_, X, w=W, v=V)[0] == "inner value %linear is also used by %neg"


def test_tied_weight() -> None:
    """A copy for one of its users would need more memory, not less time elsewhere."""
    found = reasons(RULE, lambda x, w: (F.linear(x, w) * 2.0, F.embedding(torch.arange(2), w)), X, w=W)
    assert found[0] == "w is also used by %embedding"
    found = reasons(RULE, lambda x, w: F.linear(F.linear(x, w) * 2.0, w.t()), X, w=W)
    assert found[0].startswith("w is also used by %")


def test_bias_may_be_shared() -> None:
    function = lambda x, w, b: (F.linear(x, w, b) * 2.0, b.neg())  # noqa: E731
    assert rewritten(RULE, function, X, w=W, b=B).count() == {"linear": 1, "neg": 1}


def test_weight_that_is_no_constant() -> None:
    found = reasons(RULE, lambda x, w: F.linear(x, w) * 2.0, X, W)
    assert "expected a constant for 'w', found %w = placeholder" in found
    found = reasons(RULE, lambda x, w: F.linear(x * 2.0, w + 1), X, w=W)
    assert "expected a constant for 'w', found %add = add" in found


def test_bias_that_is_no_constant() -> None:
    assert reasons(RULE, lambda x, b, w: F.linear(x, w, b) * 2.0, X, B, w=W)[0] == "%b is not a constant"
    assert reasons(RULE, lambda x, b, w, v: F.linear(x, w, b) + v, X, B, w=W, v=V)[0] == "%b is not a constant"
    unscaled = lambda x, b, w: F.linear(x * 2.0, w, b)  # noqa: E731
    assert rewritten(RULE, unscaled, X, B, w=W).count() == {"linear": 1}


def test_factor_or_term_that_is_no_constant() -> None:
    found = reasons(RULE, lambda x, c, w: F.linear(x, w) * c, X, ROWS, w=W)
    assert found[0] == "expected a number for 'c', found %c = placeholder"
    found = reasons(RULE, lambda x, v, w: F.linear(x, w) + v, X, V, w=W)
    assert found[0].startswith("expected a constant for 'v', found %")


class Adapting(nn.Module):
    """One of its constants is a buffer that each call changes."""

    def __init__(self, changed: str) -> None:
        super().__init__()
        for name, value in {"w": W, "b": B, "c": ROWS, "d": COLUMNS, "v": V}.items():
            self.register_buffer(name, value.clone())
        self.changed = changed

    def forward(self, x: Tensor) -> Tensor:
        if self.changed == "c":
            result = F.linear(x, self.w, self.b) * self.c
        elif self.changed == "d":
            result = F.linear(x * self.d, self.w, self.b)
        elif self.changed == "v":
            result = F.linear(x, self.w, self.b) + self.v
        else:
            result = F.linear(x, self.w, self.b) * 2.0
        getattr(self, self.changed).copy_(x.flatten()[0])
        return result


@pytest.mark.parametrize("changed", ["w", "b", "c", "d", "v"])
def test_constant_that_each_call_changes(changed: str) -> None:
    graph = graph_of(Adapting(changed), X)
    assert [m.target for m in graph.mutations] == [changed]
    _, misses = txgraph.rewrite.explain_pass(RULE, graph, txgraph.PassContext())
    assert misses[0].reason == f"{changed} is changed by each call"
    assert apply(RULE, graph)[1] == []


def test_weight_of_one_axis() -> None:
    assert reasons(RULE, lambda x, w: F.linear(x, w) * 2.0, X, w=normal(8)) == [
        "the weight is f32[8], expected floats with two axes",
        "expected mul, found %x = placeholder",
    ]


def test_integers() -> None:
    x, w = torch.arange(16).view(2, 8), torch.arange(40).view(5, 8)
    assert reasons(RULE, lambda x, w: F.linear(x, w) * 2, x, w=w)[0] == (
        "the weight is i64[5, 8], expected floats with two axes"
    )


def test_factor_along_another_axis() -> None:
    function = lambda x, w, c: F.linear(x, w) * c  # noqa: E731
    found = reasons(RULE, function, X, w=W, c=normal(3, 1))
    assert found[0] == "c is f32[3, 1], expected one element or 5 along the last axis"
    found = reasons(RULE, function, X, w=W, c=normal(2, 1, 1))
    assert found[0] == "c is f32[2, 1, 1], expected one element or 5 along the last axis"
    found = reasons(RULE, function, X, w=W, c=normal(3, 5))
    assert found[0] == "c is f32[3, 5], expected one element or 5 along the last axis"
    found = reasons(RULE, lambda x, w, c: F.linear(x * c, w), X, w=W, c=normal(3, 1))
    assert found[0] == "c is f32[3, 1], expected one element or 8 along the last axis"


def test_term_along_another_axis() -> None:
    function = lambda x, w, v: F.linear(x, w) + v  # noqa: E731
    for shape in ((3, 1), (3, 5), (1, 5), (1,), ()):
        v = normal(*shape)
        expected = f"v is f32{list(shape)}, expected 5 elements of torch.float32"
        assert reasons(RULE, function, X, w=W, v=v)[0] == expected


def test_term_of_another_dtype() -> None:
    """linear takes a bias in the dtype of its weight only."""
    found = reasons(RULE, lambda x, w, v: F.linear(x, w) + v, X, w=W, v=V.bfloat16())
    assert found[0] == "v is bf16[5], expected 5 elements of torch.float32"


def test_term_with_a_factor() -> None:
    found = reasons(RULE, lambda x, w, v: torch.add(F.linear(x, w), v, alpha=2), X, w=W, v=V)
    assert found[0] == "add has alpha=2"


def test_what_changes_the_type() -> None:
    x, w = X.bfloat16(), W.bfloat16()
    found = reasons(RULE, lambda x, w, c: F.linear(x, w) * c, x, w=w, c=ROWS)
    assert found[0] == "the type changes from bf16[2, 3, 5] to f32[2, 3, 5]"
    found = reasons(RULE, lambda x, w, c: F.linear(x * c, w), X, w=W, c=normal(4, 1, 1, 1))
    assert found[0] == "the type changes from f32[2, 3, 8] to f32[4, 2, 3, 8]"
    found = reasons(RULE, lambda x, w, c: F.linear(x * c, w), torch.arange(8), w=W, c=COLUMNS)
    assert found[0] == "the type changes from i64[8] to f32[8]"


@pytest.mark.parametrize("factor", [float("nan"), float("inf"), float("-inf")])
def test_factor_that_is_not_finite(factor: float) -> None:
    for w in (W, W[:, :0]):
        x = X[..., : w.shape[1]]
        found = reasons(RULE, lambda x, w: F.linear(x, w) * factor, x, w=w)
        assert found[0] == "the factor is not finite"
    c = ROWS.index_fill(0, torch.tensor(2), factor)
    assert reasons(RULE, lambda x, w, c: F.linear(x, w) * c, X, w=W, c=c)[0] == "the factor is not finite"


def test_folded_weight_that_overflows() -> None:
    found = reasons(RULE, lambda x, w: F.linear(x, w) * 1e30, X, w=W * 1e10)
    assert found[0] == "a folded value is not finite in torch.float32"
    found = reasons(RULE, lambda x, w: F.linear(x * 512.0, w), X.half(), w=(W * 512).half())
    assert found[0] == "a folded value is not finite in torch.float16"
    found = reasons(RULE, lambda x, w, b: F.linear(x, w, b) * 1e30, X, w=W, b=B * 1e10)
    assert found[0] == "a folded value is not finite in torch.float32"
    found = reasons(RULE, lambda x, w, b, v: F.linear(x, w, b) + v, X, w=W, b=V * 0 + 3e38, v=V * 0 + 3e38)
    assert found[0] == "a folded value is not finite in torch.float32"


def test_weight_that_is_not_finite() -> None:
    w = W.index_fill(0, torch.tensor(1), float("inf"))
    found = reasons(RULE, lambda x, w: F.linear(x, w) * 2.0, X, w=w)
    assert found[0] == "a folded value is not finite in torch.float32"


@pytest.mark.parametrize(
    ("dtype", "factor"), [(torch.float32, 1e-38), (torch.float16, 2**-14), (torch.float64, 1e-308)]
)
def test_folded_weight_that_is_subnormal(dtype: torch.dtype, factor: float) -> None:
    w = torch.full((5, 8), 0.5, dtype=dtype)
    found = reasons(RULE, lambda x, w: F.linear(x, w) * factor, X.to(dtype), w=w)
    assert found[0] == f"a folded value is subnormal in {dtype}"


def test_folded_weight_that_vanishes() -> None:
    w = torch.full((5, 8), 1e-300, dtype=torch.float64)
    found = reasons(RULE, lambda x, w: F.linear(x * 1e-300, w), X.double() * 1e200, w=w)
    assert found[0] == "a folded value is subnormal in torch.float64"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_folded_value_that_would_be_rounded_in_16_bits(dtype: torch.dtype) -> None:
    x, w, b, v = X.to(dtype), W.to(dtype), B.to(dtype), V.to(dtype)
    expected = f"a folded value would be rounded to {dtype}"
    assert reasons(RULE, lambda x, w: F.linear(x, w) * 0.3, x, w=w)[0] == expected
    assert reasons(RULE, lambda x, w: F.linear(x * 3.0, w), x, w=w)[0] == expected
    assert reasons(RULE, lambda x, w, c: F.linear(x, w) * c, x, w=w, c=ROWS.to(dtype))[0] == expected
    assert reasons(RULE, lambda x, w, b, v: F.linear(x, w, b) + v, x, w=w, b=b, v=v)[0] == expected
    exact = lambda x, w, c: F.linear(x, w) * c  # noqa: E731
    powers = torch.tensor([1.0, 2.0, 0.5, -4.0, 0.25]).to(dtype)
    assert rewritten(RULE, exact, x, w=w, c=powers).count() == {"linear": 1}
