"""The affine part of a norm becomes part of the linears that read it: of all of them, or of none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.export import Dim

import txgraph
from tests.helpers import assert_numbers, normal, only_reason, rewritten
from tests.small import apply, bits, find, graph_of, module, traced
from txgraph.ir import Graph, arguments, interpret, op_name
from txgraph.passes.fold.fold_norm_affine import FoldNormAffine

RULE = FoldNormAffine()
X, W, C = normal(2, 3, 8), normal(5, 8), normal(5)  # the linear's
S, T = normal(8) + 2, normal(8) - 1  # the norm's
U = normal(4, 8)

Tensor = torch.Tensor


def layer(x: Tensor, s: Tensor, t: Tensor, w: Tensor, c: Tensor) -> Tensor:
    return F.linear(F.layer_norm(x, (8,), s, t), w, c)


def rms(x: Tensor, s: Tensor, w: Tensor, c: Tensor) -> Tensor:
    return F.linear(F.rms_norm(x, (8,), s, 1e-6), w, c)


def declined(function: Callable[..., Any], *inputs: Tensor, **constants: Tensor) -> str:
    """Why the only norm keeps its affine part."""
    return only_reason(RULE, traced(function, *inputs, **constants))


def held(graph: Graph, name: str) -> Tensor:
    """The constant that is the weight or bias of the only linear."""
    return graph.constants[str(arguments(find(graph, "linear"))[name].target)]


def test_layer_norm() -> None:
    after = rewritten(RULE, layer, X, s=S, t=T, w=W, c=C)
    assert after.count() == {"layer_norm": 1, "linear": 1}
    assert list(arguments(find(after, "layer_norm")).values())[1:5] == [[8], None, None, 1e-5]
    assert sorted(after.constants) == ["c_folded", "w_folded"]
    assert held(after, "weight").equal(W * S)
    assert held(after, "bias").equal((C.double() + W.double() @ T.double()).float())


def test_rms_norm() -> None:
    after = rewritten(RULE, rms, X, s=S, w=W, c=C)
    assert after.count() == {"linear": 1, "rms_norm": 1}
    assert list(arguments(find(after, "rms_norm")).values())[1:] == [[8], None, 1e-6]
    assert sorted(after.constants) == ["c", "w_folded"]
    assert held(after, "weight").equal(W * S)
    assert held(after, "bias") is C


@pytest.mark.parametrize("eps", [None, 1e-3])
def test_eps_stays(eps: float | None) -> None:
    after = rewritten(RULE, lambda x, s, w: F.linear(F.rms_norm(x, (8,), s, eps), w), X, s=S, w=W)
    assert arguments(find(after, "rms_norm"))["eps"] == eps
    after = rewritten(RULE, lambda x, s, w: F.linear(F.layer_norm(x, (8,), s, None, 1e-3), w), X, s=S, w=W)
    assert arguments(find(after, "layer_norm"))["eps"] == 1e-3


def test_linear_without_bias() -> None:
    after = rewritten(RULE, lambda x, s, t, w: F.linear(F.layer_norm(x, (8,), s, t), w), X, s=S, t=T, w=W)
    assert held(after, "bias").equal((W.double() @ T.double()).float())
    after = rewritten(RULE, lambda x, s, w: F.linear(F.rms_norm(x, (8,), s), w), X, s=S, w=W)
    assert arguments(find(after, "linear"))["bias"] is None


def test_norm_without_bias() -> None:
    after = rewritten(RULE, lambda x, s, w, c: F.linear(F.layer_norm(x, (8,), s), w, c), X, s=S, w=W, c=C)
    assert held(after, "weight").equal(W * S)
    assert held(after, "bias") is C


def test_all_readers_are_changed_together() -> None:
    def function(x: Tensor, s: Tensor, t: Tensor, w: Tensor, u: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        y = F.layer_norm(x, (8,), s, t)
        return F.linear(y, w, c), F.linear(y, u)

    after = rewritten(RULE, function, X, s=S, t=T, w=W, u=U, c=C)
    assert after.count() == {"layer_norm": 1, "linear": 2}
    readers = [arguments(n) for n in after.nodes if op_name(n) == "linear"]
    for reader, weight, bias in zip(readers, (W, U), (C, torch.zeros(4)), strict=True):
        assert after.constants[str(reader["weight"].target)].equal(weight * S)
        expected = (weight.double() @ T.double() + bias.double()).float()
        assert after.constants[str(reader["bias"].target)].equal(expected)


def test_a_norm_of_two_parts_of_the_model() -> None:
    """Tied affine parameters are only read; one norm is folded, the other keeps them."""

    def function(x: Tensor, s: Tensor, t: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        return F.linear(F.layer_norm(x, (8,), s, t), w), F.layer_norm(x * 2, (8,), s, t)

    after = rewritten(RULE, function, X, s=S, t=T, w=W)
    assert sorted(after.constants) == ["s", "t", "t_folded", "w_folded"]
    assert after.count() == {"layer_norm": 2, "linear": 1, "mul": 1}


def test_is_rounded_once() -> None:
    w, s = normal(32, 64), normal(64) + 2
    function = lambda x, s, w: F.linear(F.rms_norm(x, (64,), s), w)  # noqa: E731
    assert held(rewritten(RULE, function, normal(3, 64), s=s, w=w), "weight").equal((w.double() * s.double()).float())


def test_the_models_weights_stay_as_they_are() -> None:
    constants = {"s": S.clone(), "t": T.clone(), "w": W.clone(), "c": C.clone()}
    graph = traced(layer, X, **constants)
    apply(RULE, graph)
    for name, value in {"s": S, "t": T, "w": W, "c": C}.items():
        assert graph.constants[name] is constants[name]
        assert bits(constants[name]).equal(bits(value))


def test_the_new_weights_know_their_sources() -> None:
    after, _ = apply(RULE, traced(layer, X, s=S, t=T, w=W, c=C))
    assert after.constants.sources == {"w_folded": {"w", "s"}, "c_folded": {"c", "w", "t"}}
    after, _ = apply(RULE, traced(rms, X, s=S, w=W, c=C))
    assert after.constants.frozen_values() == {"w", "s"}


@pytest.mark.parametrize("changed", ["norm.weight", "norm.bias", "linear.weight", "linear.bias"])
def test_a_real_model_notices_a_change_in_place(changed: str) -> None:
    torch.manual_seed(0)
    norm, linear = nn.LayerNorm(8), nn.Linear(8, 5)
    model = module(lambda x: linear(norm(x)), norm=norm, linear=linear)
    fast = txgraph.optimize(model, backend="reference", passes=txgraph.Pipeline((RULE,)))
    torch.testing.assert_close(fast(X), model(X))
    assert "None, None" in str(fast.graph_after)
    with torch.no_grad():
        model.get_parameter(changed).add_(1)
    torch.testing.assert_close(fast(X), model(X))


SHAPES = [(8,), (1, 8), (0, 8), (2, 0, 8), (13, 8), (2, 3, 5, 8)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_shapes(shape: tuple[int, ...]) -> None:
    rewritten(RULE, layer, normal(*shape), s=S, t=T, w=W, c=C)
    rewritten(RULE, rms, normal(*shape), s=S, w=W, c=C)


@pytest.mark.parametrize("outputs", [0, 1])
def test_sizes_of_the_weight(outputs: int) -> None:
    w, c = normal(outputs, 8), normal(outputs)
    assert rewritten(RULE, layer, X, s=S, t=T, w=w, c=c).count() == {"layer_norm": 1, "linear": 1}


@pytest.mark.parametrize("shape", [(1,), ()], ids=str)
def test_bias_that_broadcasts(shape: tuple[int, ...]) -> None:
    after = rewritten(RULE, layer, X, s=S, t=T, w=W, c=normal(*shape))
    assert held(after, "bias").shape == (5,)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_dtypes(dtype: torch.dtype) -> None:
    x, s, t = normal(16, 64).to(dtype), (normal(64) + 2).to(dtype), normal(64).to(dtype)
    w, c = normal(32, 64).to(dtype), normal(32).to(dtype)

    def layer64(x: Tensor, s: Tensor, t: Tensor, w: Tensor, c: Tensor) -> Tensor:
        return F.linear(F.layer_norm(x, (64,), s, t), w, c)

    after = rewritten(RULE, layer64, x, s=s, t=t, w=w, c=c)
    assert {value.dtype for value in after.constants.values()} == {dtype}
    rewritten(RULE, lambda x, s, w: F.linear(F.rms_norm(x, (64,), s), w), x, s=s, w=w)


EDGES: list[Callable[[Tensor], Tensor]] = [
    lambda x: x * 0,
    lambda x: x * -0.0,
    torch.ones_like,
    lambda x: x * 1e-40,
    lambda x: x * 1e15,
    lambda x: x * 1e30,
    lambda x: x.index_fill(-2, torch.tensor(1), float("nan")),
    lambda x: x.index_fill(-1, torch.tensor(1), float("inf")),
    lambda x: x.index_fill(-2, torch.tensor(1), float("-inf")),
]


@pytest.mark.parametrize("edge", EDGES)
def test_edge_values(edge: Callable[[Tensor], Tensor]) -> None:
    s = S.index_fill(0, torch.tensor(2), 0.0).index_fill(0, torch.tensor(3), -0.0)
    rewritten(RULE, layer, edge(X), s=s, t=T, w=W, c=C)
    rewritten(RULE, rms, edge(X), s=s, w=W, c=C)


@pytest.mark.parametrize("layout", ["transposed", "expanded", "sliced"])
def test_inputs_of_any_layout(layout: str) -> None:
    x = {
        "transposed": normal(3, 2, 8).transpose(0, 1),
        "expanded": normal(1, 1, 8).expand(2, 3, 8),
        "sliced": normal(5, 4, 17)[1::2, 1:, 1::2],
    }[layout]
    after, _ = apply(RULE, traced(layer, X, s=S, t=T, w=W, c=C))
    assert_numbers(after, layer, x, s=S, t=T, w=W, c=C)


def test_dynamic_sizes() -> None:
    torch.manual_seed(0)
    norm, linear = nn.LayerNorm(8), nn.Linear(8, 5)
    model = module(lambda x: linear(norm(x)), norm=norm, linear=linear)
    after, rewrites = apply(RULE, graph_of(model, X, dynamic_shapes=({0: Dim("B"), 1: Dim("S")},)))
    assert len(rewrites) == 1
    for b, s in ((2, 3), (5, 2), (4, 17)):
        torch.testing.assert_close(interpret(after, [normal(b, s, 8)])[0], model(normal(b, s, 8)))


def test_what_it_records() -> None:
    after, (rewrite,) = apply(RULE, traced(layer, X, s=S, t=T, w=W, c=C))
    assert rewrite.rule == "fold-norm-affine"
    assert rewrite.removed == ("linear", "layer_norm")
    assert set(rewrite.made) == {n.name for n in after.nodes} - {"x", "output"}


# What must not be folded, and why.


def test_norm_used_elsewhere() -> None:
    def function(x: Tensor, s: Tensor, t: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        y = F.layer_norm(x, (8,), s, t)
        return F.linear(y, w), y + x

    assert declined(function, X, s=S, t=T, w=W) == "%add uses the norm, and is no linear of it"


def test_norm_returned() -> None:
    def function(x: Tensor, s: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        y = F.rms_norm(x, (8,), s)
        return F.linear(y, w), y

    assert declined(function, X, s=S, w=W) == "%output uses the norm, and is no linear of it"


def test_norm_that_is_a_weight_or_bias() -> None:
    weight = lambda x, y, s: F.linear(x, F.rms_norm(y, (8,), s))  # noqa: E731
    assert declined(weight, X, U, s=S) == "%linear uses the norm, and is no linear of it"

    def bias(x: Tensor, s: Tensor, w: Tensor) -> Tensor:
        y = F.rms_norm(x, (8,), s)
        return F.linear(y, w, y)

    assert declined(bias, X[0, 0], s=S, w=normal(8, 8)) == "%rms_norm is not a constant"


def test_norm_without_affine_part() -> None:
    for function in (lambda x, w: F.linear(F.layer_norm(x, (8,)), w), lambda x, w: F.linear(F.rms_norm(x, (8,)), w)):
        assert not apply(RULE, traced(function, X, w=W))[1]


def test_one_reader_in_the_way_keeps_all() -> None:
    def function(x: Tensor, u: Tensor, s: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        y = F.rms_norm(x, (8,), s)
        return F.linear(y, w), F.linear(y, u)

    assert declined(function, X, U, s=S, w=W) == "%u is not a constant"


def test_what_is_no_constant() -> None:
    assert declined(lambda x, s, w: F.linear(F.rms_norm(x, (8,), s), w), X, S, w=W) == "%s is not a constant"
    assert declined(lambda x, w, s: F.linear(F.rms_norm(x, (8,), s), w), X, W, s=S) == "%w is not a constant"
    assert declined(lambda x, c, s, w: F.linear(F.rms_norm(x, (8,), s), w, c), X, C, s=S, w=W) == "%c is not a constant"
    shifted = lambda x, t, s, w: F.linear(F.layer_norm(x, (8,), s, t), w)  # noqa: E731
    assert declined(shifted, X, T, s=S, w=W) == "%t is not a constant"


def test_tied_weight() -> None:
    def embedded(i: Tensor, s: Tensor, w: Tensor) -> Tensor:
        return F.linear(F.rms_norm(F.embedding(i, w), (8,), s), w)

    def twice(x: Tensor, s: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        y = F.rms_norm(x, (8,), s)
        return F.linear(y, w), F.linear(y, w).neg()

    assert declined(embedded, torch.arange(3), s=S, w=W) == "w is also used by %embedding"
    assert declined(twice, X, s=S, w=W) == "w is also used by %linear_1"


class Adapting(nn.Module):
    """One of its constants is a buffer that each call changes."""

    def __init__(self, changed: str) -> None:
        super().__init__()
        for name, value in {"s": S, "t": T, "w": W, "c": C}.items():
            self.register_buffer(name, value.clone())
        self.changed = changed

    def forward(self, x: Tensor) -> Tensor:
        result = layer(x, self.s, self.t, self.w, self.c)
        getattr(self, self.changed).copy_(x.flatten()[0])
        return result


@pytest.mark.parametrize("changed", ["s", "t", "w", "c"])
def test_constant_that_each_call_changes(changed: str) -> None:
    graph = graph_of(Adapting(changed), X)
    assert [m.target for m in graph.mutations] == [changed]
    assert only_reason(RULE, graph) == f"{changed} is changed by each call"


def test_norm_over_two_axes() -> None:
    function = lambda x, s, w: F.linear(F.layer_norm(x, (3, 8), s), w)  # noqa: E731
    expected = "the norm's weight has 2 axes and the linear's 2, expected 1 and 2"
    assert declined(function, X, s=normal(3, 8), w=W) == expected


def test_weight_of_one_axis() -> None:
    function = lambda x, s, w: F.linear(F.rms_norm(x, (8,), s), w)  # noqa: E731
    expected = "the norm's weight has 1 axes and the linear's 1, expected 1 and 2"
    assert declined(function, X, s=S, w=normal(8)) == expected


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_16_bits(dtype: torch.dtype) -> None:
    found = declined(layer, X.to(dtype), s=S.to(dtype), t=T.to(dtype), w=W.to(dtype), c=C.to(dtype))
    assert found == f"a folded weight would be rounded to {dtype}"


def test_folded_values_that_overflow() -> None:
    expected = "a folded value is not finite in torch.float32"
    assert declined(rms, X, s=S * 1e20, w=W * 1e20, c=C) == expected
    assert declined(layer, X, s=S, t=T * 1e20, w=W * 1e20, c=C) == expected
    assert declined(rms, X, s=S.index_fill(0, torch.tensor(1), float("nan")), w=W, c=C) == expected
    assert declined(layer, X, s=S, t=T.index_fill(0, torch.tensor(1), float("inf")), w=W, c=C) == expected


def test_folded_weight_that_is_subnormal() -> None:
    assert declined(rms, X, s=S * 1e-20, w=W * 1e-20, c=C) == "a folded value is subnormal in torch.float32"
