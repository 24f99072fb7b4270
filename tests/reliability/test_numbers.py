"""Numbers at the edges of their dtypes, on calls that come after compiling with ordinary ones."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

import txgraph
from tests.reliability.block import Block, block, normal, optimized, statuses
from tests.small import assert_as_eager, bits, module
from tests.zoo import ZOO, tokens
from txgraph.ir import op_name, type_of

X = normal(3, 9)


def at_a_token(value: float) -> torch.Tensor:
    x = X.clone()
    x[1, 2] = value
    return x


def at_a_feature(value: float) -> torch.Tensor:
    x = X.clone()
    x[0, 0, 0] = value
    return x


EDGES: dict[str, Callable[[], torch.Tensor]] = {
    **{f"token {v}": functools.partial(at_a_token, v) for v in (math.nan, math.inf, -math.inf, 1e37)},
    **{f"feature {v}": functools.partial(at_a_feature, v) for v in (math.nan, math.inf, -math.inf, 1e15, -1e37)},
    "1e37": lambda: X * 1e37,
    "1e15": lambda: X * 1e15,
    "subnormal": lambda: X * 1e-40,
    "zeros": lambda: X * 0,
    "negative zeros": lambda: X * -0.0,
    "no variance": lambda: X * 0 + 5,
    "tiny variance": lambda: 1 + X * 1e-7,
    "tiny variance far from zero": lambda: 1000 + X * 1e-4,
}


@functools.cache
def ordinary() -> tuple[Block, txgraph.OptimizedModel]:
    """Compiled with ordinary numbers: no gate has seen any of the others."""
    model = block()
    fast = optimized(model, X)
    assert {"fuse-attention", "fuse-layer-norm"} <= {n for n, s in statuses(fast).items() if s == "applied"}
    return model, fast


# The norm after the attention gets numbers whose squares overflow: test_squares_that_overflow_in_a_layer_norm.
OVERFLOWING = ("token 1e+37", "feature -1e+37")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.xfail(strict=True, reason="torch's layer_norm gives NaN, eager 0"))
        if name in OVERFLOWING
        else name
        for name in EDGES
    ],
)
def test_edge_values_on_a_later_call(name: str) -> None:
    model, fast = ordinary()
    x = EDGES[name]()
    assert_as_eager(fast(x), model, x)
    assert len(fast.report.graphs) == 1


@pytest.mark.parametrize("name", ["token nan", "token 1e+37"])
def test_edge_values_as_the_example(name: str) -> None:
    """What does not hold the gates for them is left as it was: the answer is eager's."""
    model, x = block(), EDGES[name]()
    fast = optimized(model, x)
    assert_as_eager(fast(x), model, x)
    assert (statuses(fast)["fuse-layer-norm"] == "rolled back") == (name == "token 1e+37")
    assert fast.report.fallbacks == []


def test_the_layer_of_torch_on_a_later_call() -> None:
    torch.manual_seed(0)
    model = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).eval()
    fast = optimized(model, X, verify="off")
    for value in (math.nan, math.inf, -math.inf, 1e37):
        assert_as_eager(fast(at_a_token(value)), model, at_a_token(value))


class Norm(Block):
    """The norm alone."""

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        return self.norm(x)


class RootMeanSquare(Block):
    """The norm of T5 and Llama."""

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.scale


def test_squares_that_overflow_in_a_root_mean_square_norm() -> None:
    model = RootMeanSquare()
    fast = optimized(model, X)
    assert fast.graph_after.count() == {"rms_norm": 1}
    for size in (1e15, 1e18, 1e19, 1e25, 1e37):
        assert_as_eager(fast(X * size), model, X * size)


@functools.cache
def layer_norm() -> tuple[Block, txgraph.OptimizedModel]:
    """Compiled with ordinary numbers: one operator of torch."""
    model = Norm()
    fast = optimized(model, X)
    assert fast.graph_after.count() == {"layer_norm": 1}
    return model, fast


@pytest.mark.parametrize(
    "size",
    [
        1e15,
        1e18,
        *(
            pytest.param(size, marks=pytest.mark.xfail(strict=True, reason="torch's layer_norm gives NaN, eager 0"))
            for size in (1e20, 1e25, 1e37)
        ),
    ],
)
def test_squares_that_overflow_in_a_layer_norm(size: float) -> None:
    """An infinite variance: eager's quotient is 0, so nothing may become NaN."""
    model, fast = layer_norm()
    assert_as_eager(fast(X * size), model, X * size)


def overflowing() -> Block:
    """Scores of ordinary inputs fit float16, scores of large ones do not."""
    model = block(torch.float16)
    with torch.no_grad():
        model.query.weight.mul_(60)
        model.key.weight.mul_(60)
    return model


LARGE = normal(2, 5, dtype=torch.float16) * 20


def test_float16_scores_that_overflow_in_the_example() -> None:
    """The fused attention would not overflow: it is not eager's answer, so attention stays as it was."""
    model = overflowing()
    assert model(LARGE).isnan().all()
    fast = optimized(model, LARGE)
    assert statuses(fast)["fuse-attention"] == "rolled back"
    (reason,) = [p["reason"] for p in fast.report.to_dict()["passes"] if p["status"] == "rolled back"]
    assert "G1" in reason
    assert statuses(fast)["fuse-shared-input-linears"] == "applied"
    assert_as_eager(fast(LARGE), model, LARGE)


def test_float16_scores_that_overflow_on_a_later_call() -> None:
    """Nothing that is finite in eager becomes NaN or infinite."""
    model, small = overflowing(), LARGE / 1000
    fast = optimized(model, small)
    assert statuses(fast)["fuse-attention"] == "applied"
    mixed = torch.cat([LARGE[:1], small[1:]])
    eager, result = model(mixed), fast(mixed)
    assert eager[0].isnan().all()
    assert not (eager.isfinite() & ~result.isfinite()).any()
    assert_as_eager(fast(small), model, small)


ARITHMETIC: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "x * 0": lambda x: x * 0,
    "x * 0.0 + 1": lambda x: x * 0.0 + 1,
    "x - x": lambda x: x - x,
    "x + 0.0": lambda x: x + 0.0,
    "0.0 + x": lambda x: 0.0 + x,
    "x - 0.0": lambda x: x - 0.0,
    "x / x": lambda x: x / x,
    "0 / x": lambda x: 0 / x,
    "x ** 0": lambda x: x**0,
    "x * 1": lambda x: x * 1,
    "x / 1": lambda x: x / 1,
    "-(-x)": lambda x: x.neg().neg(),
    "x * zeros": lambda x: x * torch.zeros(6),
    "x + zeros": lambda x: x + torch.zeros(6),
    "x * ones": lambda x: x * torch.ones(6),
    "x == x": lambda x: (x == x).float(),
    "where": lambda x: torch.where(x > 0, x, 0.0),
    "masked": lambda x: x.masked_fill(x != x, 0.0),
    "relu": lambda x: torch.relu(x) * 0,
    "minimum": lambda x: torch.minimum(x, torch.full((6,), math.inf)),
}


def test_arithmetic_that_looks_as_if_it_did_nothing() -> None:
    """Bit for bit: NaN, infinities and the sign of zero, at a call after compiling with ordinary numbers."""
    model = module(lambda x: {name: function(x.neg()) for name, function in ARITHMETIC.items()})
    fast = optimized(model, torch.arange(1.0, 7.0))
    x = torch.tensor([math.nan, math.inf, -math.inf, 0.0, -0.0, 1e-40])
    eager = model(x)
    for name, result in fast(x).items():
        assert torch.equal(result.isnan(), eager[name].isnan()), name
        assert torch.equal(bits(result.nan_to_num(7.0)), bits(eager[name].nan_to_num(7.0))), name


def test_casts_inside_of_a_16_bit_model_stay() -> None:
    """Llama's softmax is computed in float32, and its norms are; so they are in the graph that runs."""
    model = ZOO["llama-eager"].model().bfloat16()
    inputs = tokens(2, 6)
    fast = optimized(model, kwargs=inputs, verify="final")
    found = [(op_name(n), t.dtype) for n in fast.graph_after.calls() if (t := type_of(n)) is not None]
    assert [dtype for name, dtype in found if name == "softmax"] == [torch.float32] * 2
    assert [dtype for name, dtype in found if name == "rms_norm"] == [torch.float32] * 5
    assert_as_eager(fast(**inputs), model, **inputs)


def test_complex_outputs_that_hold_nan() -> None:
    model = module(lambda x: torch.fft.fft(x))
    x = torch.tensor([[1.0, math.nan], [1.0, 2.0]])
    fast = optimized(model, x)
    assert torch.equal(fast(x).isnan(), model(x).isnan())
