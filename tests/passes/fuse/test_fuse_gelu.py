"""Decomposed GELU, by erf or by tanh, becomes one operator, and nothing that only looks like it."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product

import pytest
import torch
from torch.export import Dim
from transformers import activations

from tests.helpers import FLOATS, assert_numbers, normal, reasons, rejections, rewritten
from tests.small import apply, find, graph_of, module, traced
from txgraph.ir import arguments
from txgraph.passes.fuse.fuse_gelu import FuseGelu

RULE = FuseGelu()
X = normal(2, 3, 8) * 2
S, A = math.sqrt(2 / math.pi), 0.044715

Tensor = torch.Tensor
Unary = Callable[[Tensor], Tensor]


def erf_gate(x: Tensor) -> Tensor:
    return 1 + torch.erf(x / math.sqrt(2))


def tanh_gate(x: Tensor) -> Tensor:
    return 1 + torch.tanh(S * (x + A * x**3))


def by_erf(x: Tensor) -> Tensor:
    return x * 0.5 * erf_gate(x)


def by_tanh(x: Tensor) -> Tensor:
    return 0.5 * x * tanh_gate(x)


def by_sigmoid(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


def by_even(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.tanh(S * x * (1 + A * x * x)))


def kind(function: Unary, x: Tensor = X) -> str:
    """Which GELU the rule finds; nothing else may be left."""
    after = rewritten(RULE, function, x)
    if after.count() == {"txgraph::quick_gelu": 1}:
        return "sigmoid"
    assert after.count() == {"gelu": 1}
    return str(arguments(find(after, "gelu"))["approximate"])


ORDERS: list[Callable[[Tensor, Tensor], Tensor]] = [
    lambda x, gate: x * 0.5 * gate,
    lambda x, gate: 0.5 * x * gate,
    lambda x, gate: gate * (x * 0.5),
    lambda x, gate: x * (0.5 * gate),
    lambda x, gate: gate * 0.5 * x,
    lambda x, gate: x * gate * 0.5,
    lambda x, gate: 0.5 * (gate * x),
]


@pytest.mark.parametrize("order", ORDERS)
def test_orders_of_the_factors(order: Callable[[Tensor, Tensor], Tensor]) -> None:
    assert kind(lambda x: order(x, erf_gate(x))) == "none"
    assert kind(lambda x: order(x, tanh_gate(x))) == "tanh"


ERF_ARGUMENTS: list[Unary] = [
    lambda x: x / math.sqrt(2.0),
    lambda x: x / 2**0.5,
    lambda x: x * 0.7071067811865475,
    lambda x: math.sqrt(0.5) * x,
    lambda x: x * 0.70710678,
    lambda x: x / 1.41421356,
]


@pytest.mark.parametrize("argument", ERF_ARGUMENTS)
def test_arguments_of_erf(argument: Unary) -> None:
    assert kind(lambda x: x * 0.5 * (torch.erf(argument(x)) + 1.0)) == "none"


CUBES: list[Unary] = [
    lambda x: A * x**3,
    lambda x: A * torch.pow(x, 3.0),
    lambda x: A * (x * x * x),
    lambda x: A * (x**2 * x),
    lambda x: A * x * x * x,
    lambda x: A * x * (x * x),
    lambda x: A * (x * x) * x,
    lambda x: x * (x * (x * A)),
]
EVENS: list[Unary] = [
    lambda x: 1 + A * x * x,
    lambda x: 1.0 + A * (x * x),
    lambda x: A * x**2 + 1,
    lambda x: 1 + x * (A * x),
]
APPROXIMATIONS: list[Unary] = [
    *[lambda x, cube=cube: S * (x + cube(x)) for cube in CUBES],
    *[lambda x, cube=cube: (cube(x) + x) * S for cube in CUBES],
    *[lambda x, even=even: S * x * even(x) for even in EVENS],
    *[lambda x, even=even: x * S * even(x) for even in EVENS],
    *[lambda x, even=even: x * (S * even(x)) for even in EVENS],
    *[lambda x, even=even: S * (x * even(x)) for even in EVENS],
]


@pytest.mark.parametrize("approximation", APPROXIMATIONS)
def test_arguments_of_tanh(approximation: Unary) -> None:
    assert kind(lambda x: 0.5 * x * (1 + torch.tanh(approximation(x)))) == "tanh"


AS_WRITTEN: dict[str, tuple[Unary, str]] = {
    "GELUActivation": (activations.GELUActivation(use_gelu_python=True), "none"),
    "NewGELUActivation": (activations.NewGELUActivation(), "tanh"),
    "GELUTanh": (activations.GELUTanh(use_gelu_tanh_python=True), "tanh"),
    "FastGELUActivation": (activations.FastGELUActivation(), "tanh"),
    "AccurateGELUActivation": (activations.AccurateGELUActivation(), "tanh"),
    "QuickGELUActivation": (activations.QuickGELUActivation(), "sigmoid"),
    "sigmoid first": (lambda x: torch.sigmoid(x * 1.702) * x, "sigmoid"),
    "Megatron-LM": (lambda x: x * 0.5 * (1.0 + torch.tanh(0.79788456 * x * (1 + 0.044715 * x * x))), "tanh"),
    "BERT": (lambda x: x * (0.5 * (1.0 + torch.erf(x / math.sqrt(2.0)))), "none"),
}


@pytest.mark.parametrize("name", AS_WRITTEN)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_as_people_write_it(name: str, dtype: torch.dtype) -> None:
    function, expected = AS_WRITTEN[name]
    assert kind(lambda x: function(x), normal(64, 64).to(dtype)) == expected


@pytest.mark.parametrize("name", ["GELUActivation", "NewGELUActivation"])
def test_as_captured(name: str) -> None:
    after, _ = apply(RULE, graph_of(AS_WRITTEN[name][0], X))
    assert after.count() == {"gelu": 1}


@pytest.mark.parametrize("function", [by_erf, by_tanh, by_sigmoid])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_dtypes(function: Unary, dtype: torch.dtype) -> None:
    kind(function, (normal(64, 64) * 3).to(dtype))


@pytest.mark.parametrize("shape", [(), (1,), (0,), (2, 0, 8), (13, 7)], ids=str)
def test_shapes(shape: tuple[int, ...]) -> None:
    kind(by_erf, normal(*shape))
    kind(by_tanh, normal(*shape))
    kind(by_sigmoid, normal(*shape))


EDGES = [0.0, -0.0, 1e-40, -1e-40, 1e-20, 30.0, -30.0, 6e4, -6e4, float("nan"), float("-inf")]


@pytest.mark.parametrize("value", EDGES)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_edge_values(value: float, dtype: torch.dtype) -> None:
    """Alone and among others; x**3 of the large ones overflows in float16."""
    for x in (torch.full((3,), value), torch.tensor([value, 1.0, -1.0, value, 0.3])):
        for function in (by_erf, by_tanh, by_even, by_sigmoid):
            kind(function, x.to(dtype))


@pytest.mark.filterwarnings("ignore:TF32 acceleration")
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_infinity(dtype: torch.dtype) -> None:
    x = torch.tensor([float("inf"), 1.0, -1.0, float("inf")]).to(dtype)
    kind(by_tanh, x)
    kind(by_sigmoid, x)
    with torch.backends.mkldnn.flags(enabled=False):  # oneDNN's kernel of gelu makes NaN of it
        kind(by_erf, x)


@pytest.mark.parametrize("layout", ["transposed", "expanded", "sliced"])
@pytest.mark.parametrize("function", [by_erf, by_tanh])
def test_inputs_of_any_layout(layout: str, function: Unary) -> None:
    x = {
        "transposed": normal(3, 2, 8).transpose(0, 1),
        "expanded": normal(1, 1, 8).expand(2, 3, 8),
        "sliced": normal(5, 4, 17)[1::2, 1:, 1::2],
    }[layout]
    after, _ = apply(RULE, traced(function, X))
    assert after.count() == {"gelu": 1}
    assert_numbers(after, function, x)


def test_dynamic_sizes() -> None:
    for function in (by_erf, by_tanh):
        after, _ = apply(RULE, graph_of(module(function), X, dynamic_shapes=({0: Dim("B"), 1: Dim("S")},)))
        assert after.count() == {"gelu": 1}
        for b, s in ((2, 3), (5, 2), (4, 17)):
            assert_numbers(after, function, normal(b, s, 8))


def test_several_and_what_they_record() -> None:
    after, rewrites = apply(RULE, traced(lambda x: by_tanh(by_erf(x)), X))
    assert after.count() == {"gelu": 2}
    assert [r.rule for r in rewrites] == ["fuse-gelu"] * 2
    assert [len(r.removed) for r in rewrites] == [8, 5]


# What must not be fused, and why.

ERF_LEAKS = ["half", "argument", "erf", "gate"]
TANH_LEAKS = ["half", "cube", "term", "sum", "argument", "tanh", "gate"]


@pytest.mark.parametrize(("form", "which"), [*product(["erf"], ERF_LEAKS), *product(["tanh"], TANH_LEAKS)])
def test_inner_value_used_elsewhere(form: str, which: str) -> None:
    def function(x: Tensor) -> tuple[Tensor, Tensor]:
        values = {"half": x * 0.5}
        if form == "erf":
            values["argument"] = x / math.sqrt(2)
            values["erf"] = torch.erf(values["argument"])
        else:
            values["cube"] = x**3
            values["term"] = A * values["cube"]
            values["sum"] = x + values["term"]
            values["argument"] = S * values["sum"]
            values["tanh"] = torch.tanh(values["argument"])
        values["gate"] = 1 + values[form]
        return values["half"] * values["gate"], values[which].neg()

    (reason, *_) = reasons(RULE, function, X)
    assert reason.startswith("inner value %")
    assert reason.endswith(" is also used by %neg")


WRONG: list[tuple[Unary, float, float]] = [
    (lambda x: x * 0.5 * (1 + torch.erf(x / 1.4142)), 1.4142, math.sqrt(2)),
    (lambda x: x * 0.5 * (1 + torch.erf(x / 1.41421)), 1.41421, math.sqrt(2)),
    (lambda x: x * 0.5 * (1 + torch.erf(x * 0.707107)), 0.707107, math.sqrt(0.5)),
    (lambda x: x * 0.5 * (1 + torch.erf(x * -math.sqrt(0.5))), -math.sqrt(0.5), math.sqrt(0.5)),
    (lambda x: x * 0.5 * (1 + torch.erf(x * float("nan"))), float("nan"), math.sqrt(0.5)),
    (lambda x: x * 0.5 * (1 + torch.tanh(0.797885 * (x + A * x**3))), 0.797885, S),
    (lambda x: x * 0.5 * (1 + torch.tanh(S * (x + 0.0447 * x**3))), 0.0447, A),
    (lambda x: x * 0.5 * (1 + torch.tanh(S * (x + 0.04471501 * x**3))), 0.04471501, A),
    (lambda x: x * torch.sigmoid(1.7 * x), 1.7, 1.702),
    (lambda x: x * 0.5 * (1 + torch.tanh(0.8 * x * (1 + A * x * x))), 0.8, S),
]


@pytest.mark.parametrize(("function", "found", "expected"), WRONG)
def test_other_constants(function: Unary, found: float, expected: float) -> None:
    assert reasons(RULE, function, X)[0] == f"the constant {found} is not {expected} to the precision of f32[2, 3, 8]"


def test_precision_of_the_constants_is_that_of_the_dtype() -> None:
    """Nothing changes in float16 where 1.41421 is written for the root of two; in float32 it shows."""
    rounded = lambda x: x * 0.5 * (1 + torch.erf(x / 1.41421))  # noqa: E731
    assert kind(rounded, normal(64, 64).half()) == "none"
    assert kind(rounded, normal(64, 64).bfloat16()) == "none"
    assert "1.41421 is not 1.414213562" in reasons(RULE, rounded, normal(64, 64))[0]
    assert "1.415 is not" in reasons(RULE, lambda x: x * 0.5 * (1 + torch.erf(x / 1.415)), X.bfloat16())[0]
    fast = activations.FastGELUActivation()
    assert "0.7978845608 is not 0.79788456080286" in reasons(RULE, lambda x: fast(x), X.double())[0]


def test_other_halves_and_ones() -> None:
    assert reasons(RULE, lambda x: x * 0.51 * erf_gate(x), X)
    assert reasons(RULE, lambda x: x * 0.5 * (0.99 + torch.erf(x / math.sqrt(2))), X)[0] == "expected 1, found 0.99"
    assert reasons(RULE, lambda x: x * 0.5 * torch.add(torch.erf(x / math.sqrt(2)), 1, alpha=2), X)
    assert reasons(RULE, lambda x: x * erf_gate(x), X)


def test_powers_other_than_three() -> None:
    assert reasons(RULE, lambda x: x * 0.5 * (1 + torch.tanh(S * (x + A * x**2))), X)
    assert reasons(RULE, lambda x: x * 0.5 * (1 + torch.tanh(S * (x + A * x**5))), X)
    assert reasons(RULE, lambda x: x * 0.5 * (1 + torch.tanh(S * x * (1 + A * x))), X)


def test_gate_of_another_value() -> None:
    wanted = "'x' occurs twice with two values"
    assert reasons(RULE, lambda x, y: x * 0.5 * erf_gate(y), X, X + 1)[0] == wanted
    assert reasons(RULE, lambda x, y: x * 0.5 * tanh_gate(y), X, X + 1)[0] == wanted
    mixed = lambda x, y: x * 0.5 * (1 + torch.tanh(S * (x + A * y**3)))  # noqa: E731
    assert reasons(RULE, mixed, X, X + 1)[0] == wanted


def test_other_functions() -> None:
    def laplace(x: Tensor) -> Tensor:
        return 0.5 * erf_gate(x)

    def swish(x: Tensor) -> Tensor:
        return x * torch.sigmoid(x + 1.702)

    for function in (laplace, swish):
        assert reasons(RULE, function, X)


def test_constant_that_is_a_tensor() -> None:
    function = lambda x, c: x * 0.5 * (1 + torch.erf(x * c))  # noqa: E731
    found = reasons(RULE, function, X, c=torch.tensor(math.sqrt(0.5)))
    assert found[0].startswith("expected a number for 'factor', found %c")


def test_complex_numbers() -> None:
    x = torch.complex(X, X + 1)
    assert rejections(RULE, by_tanh, x)[0].endswith("expected floats of the result's type")


def test_integers() -> None:
    found = rejections(RULE, by_erf, torch.arange(5))
    assert found == ["x is i64[5]: expected floats of the result's type"]


def test_doubled_in_float16() -> None:
    """Eager's infinity is kept; the other orders have none."""
    function, x = lambda x: x * erf_gate(x) * 0.5, torch.tensor([4e4, 1.0]).half()
    assert function(x)[0].isinf()
    assert reasons(RULE, function, x)[0].startswith("eager doubles x before it halves it")
    assert kind(function, x.float()) == "none"
    assert kind(by_erf, x) == "none"
