"""Decomposed LayerNorm becomes one operator, and nothing that only looks like it."""

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
from txgraph.rewrite import PassContext, explain_pass

RULE = FuseLayerNorm()
X, W, B = normal(2, 3, 8), normal(8), normal(8) + 1
EPS = 1e-5

Tensor = torch.Tensor


def centered(x: Tensor) -> Tensor:
    return x - x.mean(-1, keepdim=True)


def norm(x: Tensor) -> Tensor:
    return norm_with(EPS)(x)


def norm_with(eps: float) -> Callable[[Tensor], Tensor]:
    def function(x: Tensor) -> Tensor:
        d = centered(x)
        return d / torch.sqrt(eps + (d * d).mean(-1, keepdim=True))

    return function


def affine(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return norm(x) * w + b


SQUARES: list[Callable[[Tensor], Tensor]] = [lambda d: d * d, lambda d: d**2, lambda d: d.pow(2.0)]
NORMALS: list[Callable[[Tensor, Tensor], Tensor]] = [
    lambda d, v: d / torch.sqrt(v),
    lambda d, v: d / v**0.5,
    lambda d, v: d * torch.rsqrt(v),
    lambda d, v: torch.rsqrt(v) * d,
    lambda d, v: d * v**-0.5,
    lambda d, v: v.pow(-0.5) * d,
]


@pytest.mark.parametrize(("square", "normalize"), list(product(SQUARES, NORMALS)))
def test_variants(square: Callable[[Tensor], Tensor], normalize: Callable[[Tensor, Tensor], Tensor]) -> None:
    def function(x: Tensor) -> Tensor:
        d = centered(x)
        return normalize(d, square(d).mean(-1, keepdim=True) + EPS)

    after = rewritten(RULE, function, X)
    assert after.count() == {"layer_norm": 1}
    assert list(arguments(find(after, "layer_norm")).values())[1:5] == [[8], None, None, EPS]


@pytest.mark.parametrize("order", range(4))
def test_weight_and_bias_on_either_side(order: int) -> None:
    def function(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        scaled = w * norm(x) if order % 2 else norm(x) * w
        return b + scaled if order // 2 else scaled + b

    after = rewritten(RULE, function, X, w=W, b=B)
    assert after.count() == {"layer_norm": 1}
    named = arguments(find(after, "layer_norm"))
    assert (named["weight"].target, named["bias"].target) == ("w", "b")


def test_weight_without_bias() -> None:
    after = rewritten(RULE, lambda x, w: norm(x) * w, X, w=W)
    assert after.count() == {"layer_norm": 1}
    assert arguments(find(after, "layer_norm"))["weight"].target == "w"


def test_bias_without_weight_is_added_after() -> None:
    after = rewritten(RULE, lambda x, b: norm(x) + b, X, b=B)
    assert after.count() == {"add": 1, "layer_norm": 1}


@pytest.mark.parametrize("axis", [-1, 2, [-1], (2,)])
def test_ways_to_name_the_axis(axis: int) -> None:
    def function(x: Tensor) -> Tensor:
        d = x - x.mean(axis, keepdim=True)
        return d / ((d * d).mean(axis, keepdim=True) + EPS).sqrt()

    assert rewritten(RULE, function, X).count() == {"layer_norm": 1}


@pytest.mark.parametrize("eps", [1, 1e-12, 0.5])
def test_eps(eps: float) -> None:
    after = rewritten(RULE, norm_with(eps), X)
    assert arguments(find(after, "layer_norm"))["eps"] == eps


SIZES = [(1, 1), (5,), (1,), (2, 1), (13, 7), (0, 8), (2, 0, 8), (2, 0), (1, 2, 3, 4, 5)]


@pytest.mark.parametrize("shape", SIZES, ids=str)
def test_sizes(shape: tuple[int, ...]) -> None:
    x, w, b = normal(*shape), normal(shape[-1]), normal(shape[-1]) + 1
    assert rewritten(RULE, affine, x, w=w, b=b).count() == {"layer_norm": 1}
    assert rewritten(RULE, norm, x).count() == {"layer_norm": 1}


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_dtypes(dtype: torch.dtype) -> None:
    x, w, b = normal(4, 64).to(dtype), normal(64).to(dtype), (normal(64) + 1).to(dtype)
    assert rewritten(RULE, affine, x, w=w, b=b).count() == {"layer_norm": 1}


EDGES: list[Callable[[Tensor], Tensor]] = [
    lambda x: x * 0,
    lambda x: x * -0.0,
    torch.ones_like,  # no variance: zeros
    lambda x: x * 1e-20,
    lambda x: x * 1e-40,
    lambda x: x * 1e15,
    lambda x: x + 1e3,
    lambda x: x.index_fill(-1, torch.tensor(3), float("nan")),
    lambda x: x.index_fill(-1, torch.tensor(3), float("inf")),
    lambda x: x.index_fill(-1, torch.tensor(3), float("-inf")),
    lambda x: x.index_fill(0, torch.tensor(1), float("nan")),
]


@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_edge_values(edge: Callable[[Tensor], Tensor], dtype: torch.dtype) -> None:
    rewritten(RULE, affine, edge(X.to(dtype)), w=W.to(dtype), b=B.to(dtype))


def test_float16_that_overflows_when_squared() -> None:
    """Eager's variance is infinite and its result zero; the fused operator's is right."""
    x = (normal(4, 64) * 1000).half()
    (fused,) = interpret(rewritten(RULE, norm, x), [x])
    torch.testing.assert_close(fused.double(), norm(x.double()), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("x", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_inputs_of_any_layout(x: Tensor) -> None:
    after, _ = apply(RULE, traced(norm, X))
    assert_numbers(after, norm, x)


def test_dynamic_sizes() -> None:
    assert_any_sizes(RULE, norm, "layer_norm")


def test_dynamic_last_axis() -> None:
    graph = graph_of(module(norm), X, dynamic_shapes=({2: Dim("E")},))
    assert apply(RULE, graph)[1] == []


def test_several_norms_and_what_they_record() -> None:
    graph = traced(lambda x, w, b: affine(affine(x, w, b), w, b), X, w=W, b=B)
    after, rewrites = apply(RULE, graph)
    assert after.count() == {"layer_norm": 2}
    assert [r.rule for r in rewrites] == ["fuse-layer-norm"] * 2
    assert [len(r.removed) for r in rewrites] == [9, 9]


# What must not be fused, and why.

LEAKS = ["mean", "d", "square", "variance", "shifted", "root", "normal", "scaled"]


@pytest.mark.parametrize("which", LEAKS)
def test_inner_value_used_elsewhere(which: str) -> None:
    def function(x: Tensor, w: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        values = {"mean": x.mean(-1, keepdim=True)}
        values["d"] = x - values["mean"]
        values["square"] = values["d"] ** 2
        values["variance"] = values["square"].mean(-1, keepdim=True)
        values["shifted"] = values["variance"] + EPS
        values["root"] = values["shifted"].sqrt()
        values["normal"] = values["d"] / values["root"]
        values["scaled"] = values["normal"] * w
        return values["scaled"] + b, values[which].neg()

    if which in ("normal", "scaled"):  # the part up to there is a norm by itself
        after = rewritten(RULE, function, X, w=W, b=B)
        assert after.count() == {"add": 1, "layer_norm": 1, "neg": 1} | ({"mul": 1} if which == "normal" else {})
    else:
        (reason, *_) = reasons(RULE, function, X, w=W, b=B)
        assert reason.startswith("inner value %")
        assert reason.endswith(" is also used by %neg")


@pytest.mark.parametrize("axes", [0, 1, (1, 2), (0, 1, 2)])
def test_means_over_other_axes(axes: int) -> None:
    def both(x: Tensor) -> Tensor:
        d = x - x.mean(axes, keepdim=True)
        return d / ((d * d).mean(axes, keepdim=True) + EPS).sqrt()

    def variance(x: Tensor) -> Tensor:
        d = centered(x)
        return d / ((d * d).mean(axes, keepdim=True) + EPS).sqrt()

    for function in (both, variance):
        (reason, *_) = reasons(RULE, function, X)
        assert reason.startswith("a mean is over the axes [")
        assert reason.endswith("not over the last")


def test_mean_over_all_axes() -> None:
    def function(x: Tensor) -> Tensor:
        d = x - x.mean(dim=None, keepdim=True)
        return d / ((d * d).mean(dim=None, keepdim=True) + EPS).sqrt()

    assert reasons(RULE, function, X)[0] == "a mean is over the axes None, not over the last"
    assert reasons(RULE, function, X[0, 0])[0] == "a mean is over the axes None, not over the last"


def test_means_that_drop_the_axis() -> None:
    def square(x: Tensor) -> Tensor:
        d = x - x.mean(-1)
        return d / ((d * d).mean(-1) + EPS).sqrt()

    assert reasons(RULE, square, normal(8, 8))[0] == "expected True, found False"


def test_no_axes() -> None:
    def function(x: Tensor) -> Tensor:
        d = x - torch.ops.aten.mean.dim(x, [-1], True)
        return d / (torch.ops.aten.mean.dim(d * d, [-1], True) + EPS).sqrt()

    assert reasons(RULE, function, torch.tensor(2.0))[0] == "x is f32[]: expected floats with a fixed last axis"


def test_mean_in_another_dtype() -> None:
    def function(x: Tensor) -> Tensor:
        d = x - x.mean(-1, keepdim=True, dtype=torch.float64)
        return d / ((d * d).mean(-1, keepdim=True) + EPS).sqrt()

    assert reasons(RULE, function, X)[0] == "mean has dtype=torch.float64"


def test_unbiased_variance() -> None:
    def by_var(x: Tensor) -> Tensor:
        return centered(x) / (x.var(-1, keepdim=True) + EPS).sqrt()

    def by_sum(x: Tensor) -> Tensor:
        d = centered(x)
        return d / ((d * d).sum(-1, keepdim=True) / 7 + EPS).sqrt()

    for function in (by_var, by_sum):
        assert "expected mean" in reasons(RULE, function, X)[0]


def test_eps_outside_of_the_root() -> None:
    def function(x: Tensor) -> Tensor:
        d = centered(x)
        return d / ((d * d).mean(-1, keepdim=True).sqrt() + EPS)

    assert reasons(RULE, function, X)[0].startswith("expected pow or sqrt, found %add")


def test_eps_that_is_a_tensor() -> None:
    def function(x: Tensor, eps: Tensor) -> Tensor:
        d = centered(x)
        return d / ((d * d).mean(-1, keepdim=True) + eps).sqrt()

    assert reasons(RULE, function, X, eps=torch.tensor(EPS))[0].startswith("expected a number for 'eps', found %")


@pytest.mark.parametrize("eps", [0.0, -1.0, float("nan")])
def test_eps_that_is_not_positive(eps: float) -> None:
    assert reasons(RULE, norm_with(eps), X)[0] == f"eps is {eps}: a row without variance is NaN in eager"


def test_eps_that_vanishes_in_float16() -> None:
    """Eager computes 0 / 0 for a row without variance."""
    assert norm_with(1e-12)(torch.zeros(1, 8).half()).isnan().all()
    found = reasons(RULE, norm_with(1e-12), X.half())
    assert found[0] == "eps is 1e-12: a row without variance is NaN in eager"
    assert rewritten(RULE, norm_with(1e-6), X.half()).count() == {"layer_norm": 1}


def test_eps_with_a_factor() -> None:
    def function(x: Tensor) -> Tensor:
        d = centered(x)
        return d / torch.add((d * d).mean(-1, keepdim=True), EPS, alpha=2).sqrt()

    assert reasons(RULE, function, X)[0] == "add has alpha=2"


def test_mean_subtracted_with_a_factor() -> None:
    def function(x: Tensor) -> Tensor:
        d = torch.sub(x, x.mean(-1, keepdim=True), alpha=2)
        return d / ((d * d).mean(-1, keepdim=True) + EPS).sqrt()

    assert reasons(RULE, function, X)[0] == "sub has alpha=2"


def test_mean_of_another_value() -> None:
    def function(x: Tensor) -> Tensor:
        d = x - (x * 2).mean(-1, keepdim=True)
        return d / ((d * d).mean(-1, keepdim=True) + EPS).sqrt()

    assert reasons(RULE, function, X)[0] == "'x' occurs twice with two values"


def test_other_powers() -> None:
    def cubes(x: Tensor) -> Tensor:
        d = centered(x)
        return d / ((d**3).mean(-1, keepdim=True) + EPS).sqrt()

    def fourth_root(x: Tensor) -> Tensor:
        d = centered(x)
        return d / ((d**2).mean(-1, keepdim=True) + EPS) ** 0.25

    def wrong_sign(x: Tensor) -> Tensor:
        d = centered(x)
        return d * ((d**2).mean(-1, keepdim=True) + EPS) ** 0.5

    assert reasons(RULE, cubes, X)[0] == "expected 2, found 3"
    assert reasons(RULE, fourth_root, X)[0] == "expected 0.5, found 0.25"
    assert reasons(RULE, wrong_sign, X)[0] == "expected -0.5, found 0.5"


def test_division_the_other_way_round() -> None:
    def function(x: Tensor) -> Tensor:
        d = centered(x)
        return ((d * d).mean(-1, keepdim=True) + EPS).sqrt() / d

    assert reasons(RULE, function, X)


@pytest.mark.parametrize("shape", [(1,), (3, 8), (1, 8), (2, 3, 8), (3, 1), ()], ids=str)
def test_weight_or_bias_of_another_shape(shape: tuple[int, ...]) -> None:
    """The normalisation is fused, and they stay outside."""
    other = normal(*shape)
    assert rewritten(RULE, lambda x, w: norm(x) * w, X, w=other).count() == {"layer_norm": 1, "mul": 1}
    after = rewritten(RULE, lambda x, w, b: norm(x) * w + b, X, w=W, b=other)
    assert after.count() == {"add": 1, "layer_norm": 1}


def test_weight_that_enlarges_the_last_axis() -> None:
    x = normal(2, 3, 1)
    assert rewritten(RULE, lambda x, w: norm(x) * w, x, w=W).count() == {"layer_norm": 1, "mul": 1}
    assert rewritten(RULE, lambda x, w, b: norm(x) * w + b, x, w=normal(1), b=B).count() == {"add": 1, "layer_norm": 1}


def test_weight_of_another_dtype() -> None:
    after = rewritten(RULE, affine, X.bfloat16(), w=W, b=B)
    assert after.count() == {"add": 1, "layer_norm": 1, "mul": 1}
    after = rewritten(RULE, affine, X, w=W, b=B.double())
    assert after.count() == {"add": 1, "layer_norm": 1}


def test_why_weight_and_bias_stay_outside() -> None:
    """Their reasons are those of the larger match."""
    graph = traced(lambda x, w: norm(x) * w, X, w=normal(3, 8))
    _, misses = explain_pass(RULE, graph, PassContext())
    assert "w is f32[3, 8], expected one axis of torch.float32" in [m.reason for m in misses]
    graph = traced(lambda x, w: norm(x) * w, X, w=normal(1))
    _, misses = explain_pass(RULE, graph, PassContext())
    assert "w is f32[1], which broadcasts along x's last axis" in [m.reason for m in misses]


def test_weight_that_is_an_input() -> None:
    after = rewritten(RULE, lambda x, w, b: norm(x) * w + b, X, W, B)
    assert after.count() == {"add": 1, "layer_norm": 1, "mul": 1}


def test_casts_inside_stay() -> None:
    cast = torch.ops.aten._to_copy

    def function(x: Tensor) -> Tensor:
        d = centered(cast(x, dtype=torch.float32))
        return cast(d / ((d * d).mean(-1, keepdim=True) + EPS).sqrt(), dtype=torch.bfloat16)

    after = rewritten(RULE, function, X.bfloat16())
    assert after.count() == {"_to_copy": 2, "layer_norm": 1}

    def inside(x: Tensor) -> Tensor:
        d = centered(x)
        variance = cast(cast(d, dtype=torch.float32).pow(2).mean(-1, keepdim=True) + EPS, dtype=torch.bfloat16)
        return d / variance.sqrt()

    assert "found %_to_copy" in reasons(RULE, inside, X.bfloat16())[0]
