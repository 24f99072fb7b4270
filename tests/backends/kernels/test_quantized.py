"""Quantized linears in C++: equal to their definitions, for all instructions that the source knows."""

from __future__ import annotations

import math

import pytest
import torch

from tests.helpers import normal
from txgraph.backends.kernels.linear import ACTIVATIONS
from txgraph.backends.kernels.quantized import (
    DEEPEST,
    int8_linears_native,
    quantize_rows_native,
    quantized_linears_native,
    weight_only_linears_native,
)
from txgraph.ir.quantized import (
    int8_linears,
    quantize_rows,
    quantize_weight,
    quantize_weight_grouped,
    weight_only_linears,
)

pytestmark = pytest.mark.usefixtures("every_integer_product")

Tensor = torch.Tensor
SIZES = [  # M, K, N
    *((m, 20, 30) for m in (1, 2, 3, 4, 5, 6, 7, 8, 9, 15, 16, 17, 33, 48, 49, 65, 100)),
    *((m, k, 30) for m in (1, 9) for k in (1, 2, 3, 4, 31, 32, 33, 63, 64, 65, 127, 300)),
    *((m, 20, n) for m in (2, 9) for n in (1, 5, 8, 17, 47, 48, 49, 95, 97, 193, 400)),
    (130, 771, 300),
    *((m, k, n) for m in (192, 501) for k in (30, 64) for n in (10, 16, 200)),  # rows are left as they are
    (300, 771, 130),
]


def integers(*shape: int) -> Tensor:
    return normal(*shape).mul(70).round().clamp(-128, 127).to(torch.int8)


def exact(values: Tensor, weight: Tensor) -> Tensor:
    """The sums that the kernel gives, and nothing else."""
    ones = torch.ones(*values.shape[:-1], 1), torch.ones(len(weight))
    (ours,), (expected,) = (
        function(values, ones[0], [weight], [ones[1]], [None], "") for function in (int8_linears_native, int8_linears)
    )
    assert torch.equal(ours, expected)
    return ours


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_every_size_is_exact(sizes: tuple[int, int, int]) -> None:
    m, k, n = sizes
    exact(integers(m, k), integers(n, k))


@pytest.mark.parametrize("rows", [1, 3, 8, 20])
def test_the_largest_numbers(rows: int) -> None:
    """No product saturates, and no sum of two."""
    for a in (127, -127, -128):
        for b in (127, -127, -128):
            values, weight = (torch.full((n, 130), each, dtype=torch.int8) for n, each in ((rows, a), (50, b)))
            assert (exact(values, weight) == a * b * 130).all()
    deep = torch.full((rows, DEEPEST), 127, dtype=torch.int8)
    assert (exact(deep, deep[:1].expand(3, -1)) == 127 * 127 * DEEPEST).all()


@pytest.mark.parametrize("sizes", [(1, 1), (3, 16), (5, 17), (40, 300), (2000, 33)], ids=str)
def test_rows(sizes: tuple[int, int]) -> None:
    x, divisor = normal(*sizes), normal(sizes[1]).exp()
    for by in (None, divisor, torch.stack([divisor, divisor], 1)[:, 0]):
        for ours, expected in zip(quantize_rows_native(x, by), quantize_rows(x, by), strict=True):
            assert torch.equal(ours, expected)


def test_rows_of_numbers_between_two_values() -> None:
    """Where the last bit of a factor or of a product decides which of two is nearer."""
    largest = normal(2000, 1).abs() + 0.5
    x = torch.cat([largest, (torch.arange(63) + 0.5) / 127 * largest], 1)
    for by in (None, normal(64).exp()):
        for ours, expected in zip(quantize_rows_native(x, by), quantize_rows(x, by), strict=True):
            assert torch.equal(ours, expected)


@pytest.mark.parametrize("width", [1, 2, 16, 35])
def test_rows_of_unusual_numbers(width: int) -> None:
    unusual = [0.0, -0.0, math.inf, -math.inf, math.nan, 1e30, 1e34, 1e-30, 4e-37, 3e-37, 1e-38, 1e-40, 1e-45]
    x = torch.zeros(2 * len(unusual), width)
    for at, number in enumerate(unusual):
        x[2 * at, -1], x[2 * at + 1] = number, number
    for ours, expected in zip(quantize_rows_native(x, None), quantize_rows(x, None), strict=True):
        torch.testing.assert_close(ours, expected, rtol=0, atol=0, equal_nan=True)
    w, scales = quantize_weight(normal(40, width))
    for rows in (x, x[4:7]):
        (ours,) = quantized_linears_native(rows, None, [w], [scales], [None], "")
        (expected,) = int8_linears(*quantize_rows(rows, None), [w], [scales], [None], "")
        torch.testing.assert_close(ours, expected, equal_nan=True)
        assert torch.equal(ours.isfinite().all(1), rows.isfinite().all(1))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("rows", [1, 6, 50, 200])
def test_scales_biases_and_activations(rows: int, activation: str) -> None:
    """Scales of rows and of columns differ widely, and not in the same way."""
    x = normal(rows, 70) * torch.arange(1, rows + 1)[:, None]
    pairs = [quantize_weight(normal(n, 70) * torch.linspace(0.01, 3, n)[:, None]) for n in (7, 100, 0, 33)]
    weights, scales = map(list, zip(*pairs, strict=True))
    biases = [normal(7), None, None, normal(66)[::2]]
    values, row_scales = quantize_rows(x, None)
    expected = int8_linears(values, row_scales, weights, scales, biases, activation)
    ours = int8_linears_native(values, row_scales, weights, scales, biases, activation)
    at_once = quantized_linears_native(x, None, weights, scales, biases, activation)
    for one, other, right in zip(ours, at_once, expected, strict=True):
        assert torch.equal(one, other)
        torch.testing.assert_close(one, right, rtol=2e-6, atol=2e-6)  # as the activations in float32, test_linear.py


@pytest.mark.parametrize(("bits", "group"), [(8, 0), (4, 32), (4, 96)])
@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 8, 9, 40, 600])
def test_weights_of_few_bits(rows: int, bits: int, group: int) -> None:
    """But for the order of the sums; many rows, and more of K than is made float32 at a time."""
    x, bias = normal(rows, 288), normal(103)
    pairs = [
        quantize_weight_grouped(normal(n, 288) * torch.linspace(0.01, 3, n)[:, None], bits, group) for n in (103, 1)
    ]
    weights, scales = map(list, zip(*pairs, strict=True))
    operands = (x, weights, scales, [bias, None], "gelu", bits, group)
    for ours, expected in zip(weight_only_linears_native(*operands), weight_only_linears(*operands), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-4)  # sums of 288 products near 1000, in float32


@pytest.mark.parametrize("depth", [1, 31, 33, 200, 223])
@pytest.mark.parametrize("rows", [1, 7, 30])
def test_weights_of_8_bits_of_any_depth(rows: int, depth: int) -> None:
    x, (weight, scales) = normal(rows, depth), quantize_weight_grouped(normal(50, depth), 8)
    operands = (x, [weight], [scales], [None], "", 8, 0)
    torch.testing.assert_close(
        *weight_only_linears_native(*operands), *weight_only_linears(*operands), rtol=1e-5, atol=1e-4
    )


def test_no_rows_and_nothing_to_sum() -> None:
    for m, k, n in ((0, 32, 3), (2, 0, 3), (20, 0, 3), (2, 32, 0), (20, 32, 0)):
        x, w, bias = torch.ones(m, k), torch.ones(n, k, dtype=torch.int8), torch.arange(float(n))
        expected = (torch.full((m, n), float(k)) + bias) if k else bias.expand(m, n)
        (quantized,) = quantized_linears_native(x, None, [w], [torch.ones(n)], [bias], "")
        (weight_only,) = weight_only_linears_native(x, [w], [torch.ones(n, 1)], [bias], "", 8, 0)
        torch.testing.assert_close(quantized, expected)
        torch.testing.assert_close(weight_only, expected)


def test_any_strides() -> None:
    weight, scales = quantize_weight(normal(30, 40))
    wide = torch.stack([weight, weight], 2)[..., 0], torch.stack([scales, scales], 1)[:, 0]
    for x in (normal(40, 9).t(), normal(9, 70)[:, 7:47], normal(1, 40).expand(9, 40), normal(3, 5, 40).transpose(0, 1)):
        for w, s in ((weight, scales), wide):
            values, row_scales = quantize_rows_native(x, None)
            assert torch.equal(values, quantize_rows(x, None)[0])
            (expected,) = int8_linears(values, row_scales, [w], [s], [None], "")
            (ours,) = quantized_linears_native(x, None, [w], [s], [None], "")
            torch.testing.assert_close(ours, expected)
            turned = values.flatten(0, -2).t().contiguous().t(), row_scales.flatten(0, -2)
            (ours,) = int8_linears_native(*turned, [w], [s], [None], "")
            torch.testing.assert_close(ours, expected.flatten(0, -2))
            (ours,) = weight_only_linears_native(x, [w], [s[:, None]], [None], "", 8, 0)
            (expected,) = weight_only_linears(x, [w], [s[:, None]], [None], "", 8, 0)
            torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


def test_numbers_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sums do not depend on how many threads share the work."""
    weight, scales = quantize_weight(normal(500, 130))
    for x in (normal(300, 130), normal(1, 130), normal(7, 130)):
        results = []
        for threads in (1, 2, 7, 64):
            monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
            results.append(quantized_linears_native(x, None, [weight], [scales], [None], "silu")[0])
            results.append(quantized_linears_native(x, None, [weight], [scales], [None], "silu")[0])
        assert all(torch.equal(results[0], other) for other in results[1:])


def test_what_torch_expects_of_operators() -> None:
    x, (w, s), ops = normal(2, 3, 32), quantize_weight(normal(5, 32)), torch.ops.txgraph
    values, scales = quantize_rows(x, None)
    checks = {"test_utils": ("test_schema", "test_faketensor")}
    torch.library.opcheck(ops.quantize_rows_native.default, (x, None), **checks)
    torch.library.opcheck(ops.int8_linears_native.default, (values, scales, [w], [s], [None], "gelu"), **checks)
    torch.library.opcheck(ops.quantized_linears_native.default, (x, None, [w], [s], [None], "gelu"), **checks)
    operands = (x, [w], [s[:, None]], [normal(5)], "", 8, 0)
    torch.library.opcheck(ops.weight_only_linears_native.default, operands, **checks)
