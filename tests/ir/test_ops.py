"""The txgraph:: operators: their definitions, their shape functions, and what torch expects of an operator."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tests.small import bits
from txgraph.ir.ops import ACTIVATIONS

linear_activation = torch.ops.txgraph.linear_activation
EXPECTED = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "tanh": F.tanh,
    "sigmoid": F.sigmoid,
}


def inputs(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    x, w, b = torch.randn(2, 3, 8), torch.randn(5, 8), torch.randn(5)
    return x.to(dtype), w.to(dtype), b.to(dtype)


def test_every_activation_is_tested() -> None:
    assert set(EXPECTED) == set(ACTIVATIONS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("activation", EXPECTED)
def test_definition(activation: str, dtype: torch.dtype) -> None:
    x, w, b = inputs(dtype)
    for bias in (b, None):
        expected = EXPECTED[activation](F.linear(x, w, bias))
        assert torch.equal(bits(linear_activation(x, w, bias, activation)), bits(expected))


@pytest.mark.parametrize("shape", [(8,), (0, 8), (1, 8), (7, 8), (2, 3, 4, 8)])
def test_shapes(shape: tuple[int, ...]) -> None:
    _, w, b = inputs()
    assert linear_activation(torch.ones(shape), w, b, "relu").shape == (*shape[:-1], 5)


def test_non_contiguous_and_non_finite() -> None:
    x, w, b = inputs()
    x[0, 0, 0], x[0, 1, 0] = float("nan"), float("inf")
    sliced = torch.stack([x, x], -1)[..., 0].transpose(0, 1)
    assert torch.equal(bits(linear_activation(sliced, w, b, "gelu")), bits(F.gelu(F.linear(sliced, w, b))))


def test_an_unknown_activation() -> None:
    x, w, b = inputs()
    with pytest.raises(KeyError, match="swish9"):
        linear_activation(x, w, b, "swish9")


def test_torch_accepts_the_operator() -> None:
    x, w, b = inputs()
    tests = ("test_schema", "test_faketensor", "test_aot_dispatch_dynamic")
    for arguments in ((x, w, b, "gelu"), (x, w, None, "relu")):
        result = torch.library.opcheck(linear_activation.default, arguments, test_utils=tests)
        assert set(result.values()) == {"SUCCESS"}
