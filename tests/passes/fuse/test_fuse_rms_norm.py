"""Decomposed RMSNorm becomes one operator, and nothing that only looks like it."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import pytest
import torch
from torch.export import Dim

from tests.helpers import FLOATS, LAYOUTS, assert_any_sizes, assert_numbers, normal, reasons, rewritten
from tests.small import apply, find, graph_of, module, traced
from txgraph.ir import arguments, interpret
from txgraph.passes.fuse.fuse_layer_norm import FuseLayerNorm
from txgraph.passes.fuse.fuse_rms_norm import FuseRmsNorm
from txgraph.rewrite import PassContext, explain_pass

RULE = FuseRmsNorm()
X, W = normal(2, 3, 8), normal(8)
EPS = 1e-6

Tensor = torch.Tensor


def norm(x: Tensor) -> Tensor:
    return norm_with(EPS)(x)


def norm_with(eps: float) -> Callable[[Tensor], Tensor]:
    return lambda x: x * torch.rsqrt((x * x).mean(-1, keepdim=True) + eps)


def scaled(x: Tensor, w: Tensor) -> Tensor:
    return norm(x) * w


SQUARES: list[Callable[[Tensor], Tensor]] = [lambda x: x * x, lambda x: x**2, lambda x: x.pow(2.0)]
NORMALS: list[Callable[[Tensor, Tensor], Tensor]] = [
    lambda x, v: x * torch.rsqrt(v),
    lambda x, v: torch.rsqrt(v) * x,
    lambda x, v: x * v**-0.5,
    lambda x, v: v.pow(-0.5) * x,
    lambda x, v: x / torch.sqrt(v),
    lambda x, v: x / v**0.5,
]


@pytest.mark.parametrize(("square", "normalize"), list(product(SQUARES, NORMALS)))
def test_variants(square: Callable[[Tensor], Tensor], normalize: Callable[[Tensor, Tensor], Tensor]) -> None:
    after = rewritten(RULE, lambda x: normalize(x, EPS + square(x).mean(-1, keepdim=True)), X)
    assert after.count() == {"rms_norm": 1}
    assert list(arguments(find(after, "rms_norm")).values())[1:] == [[8], None, EPS]


@pytest.mark.parametrize("function", [scaled, lambda x, w: w * norm(x)])
def test_weight_on_either_side(function: Callable[[Tensor, Tensor], Tensor]) -> None:
    after = rewritten(RULE, function, X, w=W)
    assert after.count() == {"rms_norm": 1}
    assert arguments(find(after, "rms_norm"))["weight"].target == "w"


@pytest.mark.parametrize("axis", [-1, 2, [-1], (2,)])
def test_ways_to_name_the_axis(axis: int) -> None:
    function = lambda x: x * ((x * x).mean(axis, keepdim=True) + EPS).rsqrt()  # noqa: E731
    assert rewritten(RULE, function, X).count() == {"rms_norm": 1}


@pytest.mark.parametrize("eps", [1, 1e-12, 0.5])
def test_eps(eps: float) -> None:
    assert arguments(find(rewritten(RULE, norm_with(eps), X), "rms_norm"))["eps"] == eps


SIZES = [(1, 1), (5,), (1,), (2, 1), (13, 7), (0, 8), (2, 0, 8), (2, 0), (1, 2, 3, 4, 5)]


@pytest.mark.parametrize("shape", SIZES, ids=str)
def test_sizes(shape: tuple[int, ...]) -> None:
    assert rewritten(RULE, scaled, normal(*shape), w=normal(shape[-1])).count() == {"rms_norm": 1}
    assert rewritten(RULE, norm, normal(*shape)).count() == {"rms_norm": 1}


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_dtypes(dtype: torch.dtype) -> None:
    after = rewritten(RULE, scaled, normal(4, 64).to(dtype), w=normal(64).to(dtype))
    assert after.count() == {"rms_norm": 1}


EDGES: list[Callable[[Tensor], Tensor]] = [
    lambda x: x * 0,
    lambda x: x * -0.0,
    torch.ones_like,
    lambda x: x * 1e-20,
    lambda x: x * 1e-40,
    lambda x: x * 1e15,
    lambda x: x * 1e30,  # the mean square is infinite, the result zero
    lambda x: x.index_fill(-1, torch.tensor(3), float("nan")),
    lambda x: x.index_fill(-1, torch.tensor(3), float("inf")),
    lambda x: x.index_fill(-1, torch.tensor(3), float("-inf")),
    lambda x: x.index_fill(0, torch.tensor(1), float("nan")),
]


@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_edge_values(edge: Callable[[Tensor], Tensor], dtype: torch.dtype) -> None:
    rewritten(RULE, scaled, edge(X.to(dtype)), w=W.to(dtype))


def test_float16_that_overflows_when_squared() -> None:
    """Eager's mean square is infinite and its result zero; the fused operator's is right."""
    x = (normal(4, 64) * 1000).half()
    (fused,) = interpret(rewritten(RULE, norm, x), [x])
    torch.testing.assert_close(fused.double(), norm(x.double()), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("x", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_inputs_of_any_layout(x: Tensor) -> None:
    after, _ = apply(RULE, traced(norm, X))
    assert_numbers(after, norm, x)


def test_dynamic_sizes() -> None:
    assert_any_sizes(RULE, norm, "rms_norm")


def test_dynamic_last_axis() -> None:
    graph = graph_of(module(norm), X, dynamic_shapes=({2: Dim("E")},))
    _, misses = explain_pass(RULE, graph, PassContext())
    assert misses[0].reason.endswith("expected floats with a fixed last axis")
    assert apply(RULE, graph)[1] == []


def test_several_norms_and_what_they_record() -> None:
    graph = traced(lambda x, w: scaled(scaled(x, w), w), X, w=W)
    after, rewrites = apply(RULE, graph)
    assert after.count() == {"rms_norm": 2}
    assert [(r.rule, len(r.removed)) for r in rewrites] == [("fuse-rms-norm", 6)] * 2


def test_layer_norm_is_not_taken_apart() -> None:
    """Of a centered value LayerNorm is the RMSNorm; whichever pass runs first, the numbers hold."""

    def layer_norm(x: Tensor) -> Tensor:
        d = x - x.mean(-1, keepdim=True)
        return d * torch.rsqrt((d * d).mean(-1, keepdim=True) + EPS)

    graph = traced(layer_norm, X)
    assert apply(FuseLayerNorm(), graph)[0].count() == {"layer_norm": 1}
    after = rewritten(RULE, layer_norm, X)
    assert after.count() == {"mean": 1, "rms_norm": 1, "sub": 1}


def test_float32_island_of_a_16_bit_model() -> None:
    """As Llama has it: the norm in float32 is fused, the casts and the weight of 16 bits stay."""
    cast = torch.ops.aten._to_copy

    def function(x: Tensor, w: Tensor) -> Tensor:
        return w * cast(norm(cast(x, dtype=torch.float32)), dtype=torch.bfloat16)

    after = rewritten(RULE, function, X.bfloat16(), w=W.bfloat16())
    assert after.count() == {"_to_copy": 2, "mul": 1, "rms_norm": 1}


# What must not be fused, and why.


@pytest.mark.parametrize("which", ["square", "mean", "shifted", "root"])
def test_inner_value_used_elsewhere(which: str) -> None:
    def function(x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        values = {"square": x**2}
        values["mean"] = values["square"].mean(-1, keepdim=True)
        values["shifted"] = values["mean"] + EPS
        values["root"] = values["shifted"].rsqrt()
        return x * values["root"] * w, values[which].neg()

    (reason, *_) = reasons(RULE, function, X, w=W)
    assert reason.startswith("inner value %")
    assert reason.endswith(" is also used by %neg")


def test_normal_value_used_elsewhere() -> None:
    """It is a norm without a weight."""

    def function(x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        y = norm(x)
        return y * w, y

    assert rewritten(RULE, function, X, w=W).count() == {"mul": 1, "rms_norm": 1}


@pytest.mark.parametrize("axes", [0, 1, (1, 2), (0, 1, 2), (-1, -2)])
def test_mean_over_other_axes(axes: int) -> None:
    (reason, *_) = reasons(RULE, lambda x: x * ((x * x).mean(axes, keepdim=True) + EPS).rsqrt(), X)
    assert reason.startswith("the mean is over the axes [")
    assert reason.endswith("not over the last")


def test_mean_over_all_axes() -> None:
    function = lambda x: x * ((x * x).mean(dim=None, keepdim=True) + EPS).rsqrt()  # noqa: E731
    assert reasons(RULE, function, X)[0] == "the mean is over the axes None, not over the last"
    (reason, *_) = reasons(RULE, lambda x: x * ((x * x).mean() + EPS).rsqrt(), X[0, 0])
    assert reason == "mean has no such arguments"


def test_mean_that_drops_the_axis() -> None:
    function = lambda x: x * ((x * x).mean(-1) + EPS).rsqrt()  # noqa: E731
    assert reasons(RULE, function, normal(8, 8))[0] == "expected True, found False"


def test_no_axes() -> None:
    function = lambda x: x * (torch.ops.aten.mean.dim(x * x, [-1], True) + EPS).rsqrt()  # noqa: E731
    assert reasons(RULE, function, torch.tensor(2.0))[0] == "x is f32[]: expected floats with a fixed last axis"


def test_mean_in_another_dtype() -> None:
    function = lambda x: x * ((x * x).mean(-1, keepdim=True, dtype=torch.float64) + EPS).rsqrt()  # noqa: E731
    assert reasons(RULE, function, X)[0] == "mean has dtype=torch.float64"


def test_sum_instead_of_mean() -> None:
    function = lambda x: x * ((x * x).sum(-1, keepdim=True) + EPS).rsqrt()  # noqa: E731
    assert reasons(RULE, function, X)[0].startswith("expected mean, found %sum")


def test_eps_outside_of_the_root() -> None:
    function = lambda x: x / ((x * x).mean(-1, keepdim=True).sqrt() + EPS)  # noqa: E731
    assert reasons(RULE, function, X)


def test_no_eps() -> None:
    function = lambda x: x * (x * x).mean(-1, keepdim=True).rsqrt()  # noqa: E731
    assert reasons(RULE, function, X)[0].startswith("expected add, found %mean")


def test_eps_that_is_a_tensor() -> None:
    function = lambda x, eps: x * ((x * x).mean(-1, keepdim=True) + eps).rsqrt()  # noqa: E731
    assert reasons(RULE, function, X, eps=torch.tensor(EPS))[0].startswith("expected a number for 'eps', found %")


@pytest.mark.parametrize("eps", [0, -1.0, float("nan")])
def test_eps_that_is_not_positive(eps: float) -> None:
    assert reasons(RULE, norm_with(eps), X)[0] == f"eps is {eps}: a row of zeros is NaN in eager"


def test_eps_that_vanishes_in_float16() -> None:
    """Eager computes 0 * inf for a row of zeros."""
    assert norm_with(1e-12)(torch.zeros(1, 8).half()).isnan().all()
    assert reasons(RULE, norm_with(1e-12), X.half())[0] == "eps is 1e-12: a row of zeros is NaN in eager"
    assert rewritten(RULE, norm_with(1e-6), X.half()).count() == {"rms_norm": 1}


def test_square_of_another_value() -> None:
    function = lambda x: x * (((x + 1) * (x + 1)).mean(-1, keepdim=True) + EPS).rsqrt()  # noqa: E731
    assert reasons(RULE, function, X)[0] == "'x' occurs twice with two values"
    function = lambda x: x * ((x * x.neg()).mean(-1, keepdim=True) + EPS).rsqrt()  # noqa: E731
    assert reasons(RULE, function, X)


def test_other_powers() -> None:
    assert reasons(RULE, lambda x: x * ((x**4).mean(-1, keepdim=True) + EPS).rsqrt(), X)[0] == "expected 2, found 4"
    function = lambda x: x * ((x**2).mean(-1, keepdim=True) + EPS) ** -0.25  # noqa: E731
    assert reasons(RULE, function, X)[0] == "expected -0.5, found -0.25"
    function = lambda x: x * ((x**2).mean(-1, keepdim=True) + EPS) ** 0.5  # noqa: E731
    assert reasons(RULE, function, X)[0] == "expected -0.5, found 0.5"


def test_division_the_other_way_round() -> None:
    assert reasons(RULE, lambda x: ((x * x).mean(-1, keepdim=True) + EPS).sqrt() / x, X)


def test_division_that_rounds() -> None:
    def function(x: Tensor) -> Tensor:
        return torch.div(x, ((x * x).mean(-1, keepdim=True) + EPS).sqrt(), rounding_mode="trunc")

    assert reasons(RULE, function, X)


@pytest.mark.parametrize("shape", [(1,), (3, 8), (1, 8), (2, 3, 8), (3, 1), ()], ids=str)
def test_weight_of_another_shape(shape: tuple[int, ...]) -> None:
    """The normalisation is fused, and the weight stays outside; the reason is that of the larger match."""
    w = normal(*shape)
    assert rewritten(RULE, scaled, X, w=w).count() == {"mul": 1, "rms_norm": 1}
    _, misses = explain_pass(RULE, traced(scaled, X, w=w), PassContext())
    assert f"w is f32{list(shape)}, expected 8 elements of torch.float32" in [m.reason for m in misses]


def test_weight_that_enlarges_the_last_axis() -> None:
    assert rewritten(RULE, scaled, normal(2, 3, 1), w=W).count() == {"mul": 1, "rms_norm": 1}


def test_weight_of_another_dtype() -> None:
    assert rewritten(RULE, scaled, X.bfloat16(), w=W).count() == {"mul": 1, "rms_norm": 1}


def test_weight_that_is_an_input() -> None:
    assert rewritten(RULE, scaled, X, W).count() == {"mul": 1, "rms_norm": 1}


def test_weight_shifted_by_one() -> None:
    """As Gemma has it: the sum is not a constant until constants are folded."""
    assert rewritten(RULE, lambda x, w: norm(x) * (1 + w), X, w=W).count() == {"add": 1, "mul": 1, "rms_norm": 1}
