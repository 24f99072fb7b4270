"""Attention above a threshold in C++: what it is defined as, for every width of vectors that the source knows."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from tests.backends.kernels.test_attention import MASKS, SIZES, heads, window
from tests.helpers import normal
from txgraph.backends.kernels.attention import attention_native, threshold_attention_native
from txgraph.ir.ops import threshold_attention

Tensor = torch.Tensor
pytestmark = pytest.mark.usefixtures("every_processor")


def near(ours: Tensor, definition: Callable[..., Tensor], *operands: Tensor | None) -> None:
    """To the definition in float64: scores up to 20, sums of 64 products in float32, are off by 5e-6; the ramp by twice
    that, and values up to 4 multiply it."""
    exact = definition(*(t.double() if t is not None and t.is_floating_point() else t for t in operands))
    torch.testing.assert_close(ours.double(), exact, rtol=0, atol=2e-5)


@pytest.mark.parametrize(("mask", "causal"), MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_dense(sizes: tuple[int, ...], mask: Callable[..., Tensor | None], causal: bool) -> None:
    """Of normal scores some weights are below these thresholds, some on the ramp, and some above."""
    b, s, t, h, g, d, width = sizes
    q, k, v, hidden = heads(b, s, h, d), heads(b, t, g, d), heads(b, t, g, width), mask(b, h, s, t)
    result = threshold_attention_native(q, k, v, hidden, causal, None, 0.05)
    assert result.transpose(1, 2).is_contiguous()
    near(
        result,
        lambda q, k, v, m: threshold_attention(q, k, v, m, causal, None, g != h, 0.05),
        *(q, k, v, hidden),
    )


@pytest.mark.parametrize("causal", [False, True], ids=["", "causal"])
@pytest.mark.parametrize(("depth", "threshold"), [(32, 1e-3), (48, 0.5), (64, 1e-6)], ids=str)
def test_few_keys_that_count(causal: bool, depth: int, threshold: float) -> None:
    """Each query has some that no neighbour has."""
    q, v = heads(2, 300, 3, depth), heads(2, 300, 3, depth)
    k = q.roll(5, 2)
    operands = (q * 2, k, v)
    result = threshold_attention_native(*operands, None, causal, None, threshold)
    near(result, lambda q, k, v: threshold_attention(q, k, v, None, causal, None, False, threshold), *operands)


def test_threshold_zero_is_ordinary_attention() -> None:
    q, k, v = heads(2, 140, 4, 24), heads(2, 90, 2, 24), heads(2, 90, 2, 24)
    for mask in (None, normal(140, 90)):
        exact = attention_native(q, k, v, mask, False, None)
        assert threshold_attention_native(q, k, v, mask, False, None, 0.0).equal(exact)
        nearly = threshold_attention_native(q, k, v, mask, False, None, 1e-12)
        torch.testing.assert_close(nearly, exact)


def test_tiles_that_a_mask_hides() -> None:
    q, k, v = (heads(2, 300, 4, 16) for _ in range(3))
    mask = window(300)
    result = threshold_attention_native(q, k, v, mask, False, None, 0.05)
    near(result, lambda q, k, v: threshold_attention(q, k, v, mask, False, None, False, 0.05), q, k, v)


@pytest.mark.parametrize("mask", [torch.zeros(9, 7, dtype=torch.bool), torch.full((9, 7), -math.inf)])
def test_a_query_without_keys_gives_zeros(mask: Tensor) -> None:
    q, k, v = heads(1, 9, 2, 8), heads(1, 7, 2, 8), heads(1, 7, 2, 8)
    assert not threshold_attention_native(q, k, v, mask, False, None, 0.1).any()
    assert not threshold_attention_native(q, k[:, :, :0], v[:, :, :0], None, False, None, 0.1).any()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e30, 1e-40])
@pytest.mark.parametrize("where", range(3), ids=["query", "key", "value"])
def test_unusual_numbers(value: float, where: int) -> None:
    """They reach the outputs that they reach by definition, and no others."""
    operands = [normal(1, 2, 20, 8) for _ in range(3)]
    operands[where] = operands[where].clone()
    operands[where][0, 1, 3, 2] = value
    ours = threshold_attention_native(*operands, None, False, None, 0.1)
    torch.testing.assert_close(
        ours, threshold_attention(*operands, None, False, None, False, 0.1), rtol=1e-5, atol=1e-5, equal_nan=True
    )


def test_what_torch_expects_of_an_operator() -> None:
    q, mask = heads(2, 3, 4, 8), normal(1, 4, 3, 3)
    checks = {"test_utils": ("test_schema", "test_faketensor")}
    operators = torch.ops.txgraph
    torch.library.opcheck(operators.threshold_attention_native.default, (q, q, q, mask, False, None, 0.1), **checks)
    torch.library.opcheck(operators.threshold_attention.default, (q, q, q, mask, False, None, False, 0.1), **checks)
