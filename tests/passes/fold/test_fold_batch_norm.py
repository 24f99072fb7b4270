"""Batch normalisation by known statistics becomes part of the convolution or linear before it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.export import Dim

import txgraph
from tests.helpers import normal, only_reason, rewritten
from tests.small import apply, bits, graph_of, traced
from txgraph.ir import arguments, interpret, op_name
from txgraph.passes.fold.fold_batch_norm import FoldBatchNorm
from txgraph.verify import check_gates, reference

RULE = FoldBatchNorm()
EPS = 1e-5
X, W, B = normal(2, 3, 7, 6), normal(4, 3, 3, 3), normal(4)
NORM = {"s": normal(4) + 2, "t": normal(4) - 1, "m": normal(4) / 2, "v": normal(4).square() + 0.1}
CONSTANTS = {"w": W, "b": B, **NORM}

Tensor = torch.Tensor
_batch_norm = torch.ops.aten._native_batch_norm_legit_no_training


def normalized(y: Tensor, s: Tensor | None, t: Tensor | None, m: Tensor, v: Tensor) -> Tensor:
    """As torch.export gives it in eval mode."""
    result: Tensor = _batch_norm(y, s, t, m, v, 0.1, EPS)[0]
    return result


def conv(x: Tensor, w: Tensor, b: Tensor, s: Tensor, t: Tensor, m: Tensor, v: Tensor) -> Tensor:
    return normalized(F.conv2d(x, w, b), s, t, m, v)


def linear(x: Tensor, w: Tensor, b: Tensor, s: Tensor, t: Tensor, m: Tensor, v: Tensor) -> Tensor:
    return normalized(F.linear(x, w, b), s, t, m, v)


def declined(function: Callable[..., Any], *inputs: Tensor, **constants: Tensor) -> str:
    """Why the only norm stays."""
    return only_reason(RULE, traced(function, *inputs, **constants))


def randomized(model: nn.Sequential, dtype: torch.dtype = torch.float32) -> nn.Sequential:
    """In eval mode, with statistics and affine parts as if it had been trained."""
    torch.manual_seed(0)
    for norm in model:
        if isinstance(norm, nn.modules.batchnorm._BatchNorm):
            assert norm.running_mean is not None
            assert norm.running_var is not None
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.1, 3)
            if norm.affine:
                nn.init.normal_(norm.weight, 1, 0.3)
                nn.init.normal_(norm.bias)
    return model.to(dtype).eval()


def test_convolution() -> None:
    after = rewritten(RULE, conv, X, **CONSTANTS)
    assert after.count() == {"conv2d": 1}
    scale = NORM["s"].double() / (NORM["v"].double() + EPS).sqrt()
    weight, bias = (after.constants[name] for name in ("w_folded", "conv2d_bias_folded"))
    torch.testing.assert_close(weight, (W * scale[:, None, None, None]).float())
    torch.testing.assert_close(bias, ((B - NORM["m"]) * scale + NORM["t"]).float())


LAYERS: list[tuple[Callable[[], nn.Module], Callable[..., nn.Module], Tensor]] = [
    (lambda: nn.Conv1d(3, 4, 3), nn.BatchNorm1d, X[..., 0]),
    (lambda: nn.Conv2d(3, 4, 3), nn.BatchNorm2d, X),
    (lambda: nn.Conv3d(3, 4, 2), nn.BatchNorm3d, normal(2, 3, 4, 4, 4)),
    (lambda: nn.Linear(3, 4), nn.BatchNorm1d, normal(6, 3)),
    (lambda: nn.Conv2d(3, 4, 3, padding="same"), nn.BatchNorm2d, X),
    (lambda: nn.Conv2d(3, 4, 3, stride=2, padding=2, dilation=2), nn.BatchNorm2d, X),
    (lambda: nn.Conv2d(3, 6, 3, groups=3), nn.BatchNorm2d, X),
    (lambda: nn.Conv1d(3, 4, 1, bias=False), nn.BatchNorm1d, X[..., 0]),
    (lambda: nn.Linear(3, 4, bias=False), nn.BatchNorm1d, normal(6, 3)),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize(("producer", "norm", "x"), LAYERS)
def test_layers(
    producer: Callable[[], nn.Module], norm: Callable[..., nn.Module], x: Tensor, affine: bool, dtype: torch.dtype
) -> None:
    first = producer()
    channels = first.get_parameter("weight").shape[0]
    model, x = randomized(nn.Sequential(first, norm(channels, affine=affine)), dtype), x.to(dtype)
    graph = graph_of(model, x)
    after, _ = apply(RULE, graph)
    (call,) = after.calls()
    (old, *_) = graph.calls()
    assert op_name(call) == op_name(old)
    assert not apply(RULE, after)[1]
    kept = [{k: v for k, v in arguments(n).items() if k not in ("input", "weight", "bias")} for n in (call, old)]
    assert kept[0] == kept[1]
    truth = reference(model, (x,), {})
    assert all(gate.passed for gate in check_gates(interpret(after, [x]), truth.eager, truth.oracle))


def test_chain() -> None:
    layers = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)]
    after, rewrites = apply(RULE, graph_of(randomized(nn.Sequential(*layers)), X))
    assert after.count() == {"conv2d": 2, "relu": 1}
    assert [r.rule for r in rewrites] == ["fold-batch-norm"] * 2


def test_is_rounded_once() -> None:
    w, norm = normal(64, 64), {name: normal(64).square() + 0.1 for name in "stmv"}
    after = rewritten(RULE, linear, normal(3, 64), w=w, b=normal(64), **norm)
    scale = norm["s"].double() * (norm["v"].double() + EPS).rsqrt()
    assert after.constants["w_folded"].equal((w.double() * scale[:, None]).float())


def test_the_models_weights_stay_as_they_are() -> None:
    constants = {name: value.clone() for name, value in CONSTANTS.items()}
    graph = traced(conv, X, **constants)
    apply(RULE, graph)
    for name, value in CONSTANTS.items():
        assert graph.constants[name] is constants[name]
        assert bits(constants[name]).equal(bits(value))


def test_the_new_weights_know_their_sources() -> None:
    after, _ = apply(RULE, traced(conv, X, **CONSTANTS))
    assert after.constants.frozen_values() == set(CONSTANTS)


@pytest.mark.parametrize("changed", ["0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var"])
def test_a_real_model_notices_a_change_in_place(changed: str) -> None:
    model = randomized(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))
    fast = txgraph.optimize(model, backend="reference", passes=txgraph.Pipeline((RULE,)))
    torch.testing.assert_close(fast(X), model(X))
    assert fast.graph_after.count() == {"conv2d": 1}
    with torch.no_grad():
        model.state_dict()[changed].add_(1)
    torch.testing.assert_close(fast(X), model(X))


@pytest.mark.parametrize("shape", [(1, 3, 3, 3), (0, 3, 7, 6), (13, 3, 5, 4)], ids=str)
def test_shapes(shape: tuple[int, ...]) -> None:
    assert rewritten(RULE, conv, normal(*shape), **CONSTANTS).count() == {"conv2d": 1}


EDGES: list[Callable[[Tensor], Tensor]] = [
    lambda x: x * 0,
    lambda x: x * -0.0,
    lambda x: x * 1e-40,
    lambda x: x * 1e30,
    lambda x: x.index_fill(-1, torch.tensor(1), float("nan")),
    lambda x: x.index_fill(-1, torch.tensor(1), float("inf")),
    lambda x: x.index_fill(0, torch.tensor(1), float("-inf")),
]


@pytest.mark.parametrize("edge", EDGES)
def test_edge_values(edge: Callable[[Tensor], Tensor]) -> None:
    """Also for a channel that is switched off, and one that never varied."""
    norm = NORM | {"s": NORM["s"].index_fill(0, torch.tensor(1), 0.0), "v": NORM["v"].index_fill(0, torch.tensor(2), 0)}
    rewritten(RULE, conv, edge(X), w=W, b=B, **norm)
    rewritten(RULE, linear, edge(normal(6, 8)), w=normal(4, 8), b=B, **norm)


def test_dynamic_sizes() -> None:
    model = randomized(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))
    after, _ = apply(RULE, graph_of(model, X, dynamic_shapes=({0: Dim("B"), 2: Dim("H", min=4)},)))
    assert after.count() == {"conv2d": 1}
    for b, h in ((2, 7), (5, 4), (3, 17)):
        x = normal(b, 3, h, 6)
        torch.testing.assert_close(interpret(after, [x])[0], model(x))


def test_what_it_records() -> None:
    after, (rewrite,) = apply(RULE, traced(conv, X, **CONSTANTS))
    assert rewrite.rule == "fold-batch-norm"
    assert rewrite.removed == ("getitem", "_native_batch_norm_legit_no_training", "conv2d")
    assert set(rewrite.made) == {n.name for n in after.nodes} - {"x", "output"}


# What must not be folded, and why.


def test_inner_value_used_elsewhere() -> None:
    def twice(x: Tensor, w: Tensor, s: Tensor, t: Tensor, m: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        y = F.conv2d(x, w)
        return normalized(y, s, t, m, v), y.neg()

    def returned(x: Tensor, w: Tensor, s: Tensor, t: Tensor, m: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        y = F.conv2d(x, w)
        return normalized(y, s, t, m, v), y

    assert declined(twice, X, w=W, **NORM) == "inner value %conv2d is also used by %neg"
    assert declined(returned, X, w=W, **NORM) == "inner value %conv2d is also used by %output"


def test_other_results_of_the_norm_used() -> None:
    def function(x: Tensor, w: Tensor, s: Tensor, t: Tensor, m: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        result, mean, _ = _batch_norm(F.conv2d(x, w), s, t, m, v, 0.1, EPS)
        return result, mean

    assert declined(function, X, w=W, **NORM) == "more than the normalised values is used"


def test_other_producers() -> None:
    norm = {name: value[:3] for name, value in NORM.items()}
    assert declined(normalized, X, **norm) == "expected a convolution or linear, found %y"
    relu = lambda x, w, s, t, m, v: normalized(F.conv2d(x, w).relu(), s, t, m, v)  # noqa: E731
    assert declined(relu, X, w=W, **NORM) == "expected a convolution or linear, found %relu"
    transposed = lambda x, w, s, t, m, v: normalized(F.conv_transpose2d(x, w), s, t, m, v)  # noqa: E731
    found = declined(transposed, X, w=normal(3, 4, 3, 3), **NORM)
    assert found == "expected a convolution or linear, found %conv_transpose2d"


def test_statistics_of_the_batch() -> None:
    """In training, or without running statistics, they depend on the input."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)).eval()
    assert not apply(RULE, graph_of(model, X))[1]
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    assert not apply(RULE, graph_of(model.train(), X))[1]


def test_channels_on_another_axis() -> None:
    """The norm takes the second axis; a linear makes the last, and a convolution without a batch the first."""
    found = declined(linear, normal(2, 4, 3), w=normal(4, 3), b=B, **NORM)
    assert found == "the second axis of f32[2, 4, 4] is not the one that %linear makes"
    unbatched = normal(3, 6, 7)
    assert F.conv2d(unbatched, W, B).shape[1] == 4
    assert declined(conv, unbatched, **CONSTANTS) == "the second axis of f32[4, 4, 5] is not the one that %conv2d makes"


@pytest.mark.parametrize("which", ["w", "b", "s", "t", "m", "v"])
def test_what_is_no_constant(which: str) -> None:
    held = {name: value for name, value in CONSTANTS.items() if name != which}
    order = ["x", which, *held]

    def function(x: Tensor, given: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor, e: Tensor) -> Tensor:
        return conv(**dict(zip(order, (x, given, a, b, c, d, e), strict=True)))

    renamed = dict(zip("abcde", held.values(), strict=True))
    assert declined(function, X, CONSTANTS[which], **renamed) == "%given is not a constant"


def test_tied_weight() -> None:
    def function(x: Tensor, w: Tensor, s: Tensor, t: Tensor, m: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        return normalized(F.conv2d(x, w), s, t, m, v), F.conv2d(x * 2, w)

    assert declined(function, X, w=W, **NORM) == "w is also used by %conv2d_1"


class Adapting(nn.Module):
    """One of its constants is a buffer that each call changes."""

    def __init__(self, changed: str) -> None:
        super().__init__()
        for name, value in CONSTANTS.items():
            self.register_buffer(name, value.clone())
        self.changed = changed

    def forward(self, x: Tensor) -> Tensor:
        result = F.batch_norm(F.conv2d(x, self.w, self.b), self.m, self.v, self.s, self.t)
        getattr(self, self.changed).copy_(x.flatten()[0].abs())
        return result


@pytest.mark.parametrize("changed", ["w", "b", "s", "t", "m", "v"])
def test_constant_that_each_call_changes(changed: str) -> None:
    graph = graph_of(Adapting(changed), X)
    assert [m.target for m in graph.mutations] == [changed]
    assert only_reason(RULE, graph) == f"{changed} is changed by each call"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_16_bits(dtype: torch.dtype) -> None:
    constants = {name: value.to(dtype) for name, value in (CONSTANTS | {"w": normal(4, 8)}).items()}
    found = declined(linear, normal(6, 8).to(dtype), **constants)
    assert found == f"a folded weight would be rounded to {dtype}"


def test_folded_values_that_are_not_finite() -> None:
    expected = "a folded value is not finite in torch.float32"
    assert declined(conv, X, **CONSTANTS | {"v": NORM["v"] - 5}) == expected  # the root of a negative number
    assert declined(conv, X, **CONSTANTS | {"s": NORM["s"] * 1e38}) == expected
    assert declined(conv, X, **CONSTANTS | {"t": NORM["t"] * float("inf")}) == expected
    assert declined(conv, X, **CONSTANTS | {"m": NORM["m"] * float("nan")}) == expected


def test_folded_weight_that_is_subnormal() -> None:
    found = declined(conv, X, **CONSTANTS | {"s": NORM["s"] * 1e-38})
    assert found == "a folded value is subnormal in torch.float32"
