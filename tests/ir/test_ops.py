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
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_linears(dtype: torch.dtype) -> None:
    """Each is torch's own linear, in memory of its own."""
    x, w, b = inputs(dtype)
    results = torch.ops.txgraph.linears(x, [w, w[:2], w[:0]], [b, None, None])
    for result, expected in zip(results, (F.linear(x, w, b), F.linear(x, w[:2]), F.linear(x, w[:0])), strict=True):
        assert result.is_contiguous()
        assert torch.equal(bits(result), bits(expected))
    tests = ("test_schema", "test_faketensor", "test_aot_dispatch_dynamic")
    for shape in ((8,), (0, 8), (2, 3, 4, 8)):
        arguments = (torch.ones(shape, dtype=dtype), [w, w[:2]], [None, b[:2]])
        checked = torch.library.opcheck(torch.ops.txgraph.linears.default, arguments, test_utils=tests)
        assert set(checked.values()) == {"SUCCESS"}


def test_quick_gelu() -> None:
    """Its definition, and that torch knows it for an operator on each number alone."""
    x = torch.tensor([float("nan"), float("inf"), -30.0, -1.0, -0.0, 0.5, 3.0])
    quick_gelu = torch.ops.txgraph.quick_gelu.default
    torch.testing.assert_close(quick_gelu(x), x / (1 + torch.exp(-1.702 * x)), equal_nan=True)
    assert torch.Tag.pointwise in quick_gelu.tags
    tests = ("test_schema", "test_faketensor", "test_aot_dispatch_dynamic")
    assert set(torch.library.opcheck(quick_gelu, (x[2:],), test_utils=tests).values()) == {"SUCCESS"}


softcap_attention = torch.ops.txgraph.softcap_attention


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("mask", ["none", "additive", "boolean", "hides a row"])
def test_capped_attention(mask: str, dtype: torch.dtype) -> None:
    """Against torch's attention in float64, of queries so small that the cap hardly bends the scores; and with it."""
    torch.manual_seed(0)
    q, k, v = torch.randn(2, 3, 5, 8).to(dtype), torch.randn(2, 3, 7, 8).to(dtype), torch.randn(2, 3, 7, 4).to(dtype)
    masks = {"none": None, "additive": torch.randn(5, 7).to(dtype), "boolean": torch.randn(5, 7) > 0}
    masks["hides a row"] = torch.ones(5, 7, dtype=torch.bool).index_fill(0, torch.tensor(2), False)
    given = masks[mask]
    wide = given.double() if given is not None and given.dtype is dtype else given
    almost = F.scaled_dot_product_attention(q.double(), k.double(), v.double(), wide, scale=0.5)
    loose = softcap_attention(q.double(), k.double(), v.double(), wide, 0.5, 1e6)
    torch.testing.assert_close(loose, almost)
    result = softcap_attention(q, k, v, given, 0.5, 2.0)
    assert (result.dtype, result.shape) == (dtype, (2, 3, 5, 4))
    scores = 2 * torch.tanh(q.double() @ k.double().transpose(-2, -1) * 0.5 / 2)
    if given is not None:
        scores = scores + (wide if given.dtype is dtype else torch.zeros(5, 7).masked_fill(~given, -torch.inf))
    expected = scores.softmax(-1).nan_to_num(0.0) @ v.double()
    tolerance = 16 * torch.finfo(dtype).eps
    torch.testing.assert_close(result.double(), expected, rtol=tolerance, atol=tolerance)


def test_torch_accepts_capped_attention() -> None:
    q = torch.randn(2, 5, 8)
    tests = ("test_schema", "test_faketensor", "test_aot_dispatch_dynamic")
    for mask in (None, torch.randn(5, 5)):
        result = torch.library.opcheck(softcap_attention.default, (q, q, q, mask, 0.5, 5.0), test_utils=tests)
        assert set(result.values()) == {"SUCCESS"}


expert_linear = torch.ops.txgraph.expert_linear


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("expert", [[0, 1, 2, 2, 0], [1, 1, 1, 1, 1], [-1, 0, -3, 2, 1]], ids=str)
def test_experts(expert: list[int], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x, w, e = torch.randn(5, 8).to(dtype), torch.randn(3, 4, 8).to(dtype), torch.tensor(expert)
    result = expert_linear(x, w, e)
    assert result.dtype is dtype
    expected = torch.stack([w[i].double() @ row.double() for i, row in zip(expert, x, strict=True)])
    tolerance = 16 * torch.finfo(dtype).eps
    torch.testing.assert_close(result.double(), expected, rtol=tolerance, atol=tolerance)


def test_no_rows_and_no_such_expert() -> None:
    w = torch.randn(3, 4, 8)
    assert expert_linear(torch.ones(0, 8), w, torch.ones(0, dtype=torch.int64)).shape == (0, 4)
    for missing in (3, -4):
        with pytest.raises(IndexError, match="an expert is not among the 3 of the weight"):
            expert_linear(torch.ones(2, 8), w, torch.tensor([0, missing]))


def test_torch_accepts_experts() -> None:
    arguments = (torch.randn(5, 8), torch.randn(3, 4, 8), torch.tensor([0, 1, 2, 2, 0]))
    result = torch.library.opcheck(expert_linear.default, arguments, test_utils=("test_schema", "test_faketensor"))
    assert set(result.values()) == {"SUCCESS"}
