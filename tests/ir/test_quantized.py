"""Quantized operators: their definitions against naive formulas, and what they make of unusual numbers."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tests.helpers import LAYOUTS, normal
from txgraph.ir.ops import ACTIVATIONS
from txgraph.ir.quantized import (
    dequantize_weight,
    dequantize_weight_grouped,
    int8_linears,
    quantize_rows,
    quantize_weight,
    quantize_weight_grouped,
    weight_only_linears,
)

CHECKS: dict[str, Any] = {"test_utils": ("test_schema", "test_faketensor")}


def int8(*shape: int) -> torch.Tensor:
    return normal(*shape).mul(60).round().clamp(-128, 127).to(torch.int8)


@pytest.mark.parametrize("divided", [False, True])
def test_rows_by_a_loop(divided: bool) -> None:
    x, divisor = normal(3, 5, 7), normal(7).exp() if divided else None
    values, scales = quantize_rows(x, divisor)
    assert values.dtype is torch.int8
    assert (values.shape, scales.shape) == ((3, 5, 7), (3, 5, 1))
    for at in range(15):
        row = x.view(15, 7)[at] / (1 if divisor is None else divisor)
        most = max(abs(number) for number in row.tolist())
        assert scales.view(15)[at].item() == pytest.approx(most / 127, rel=1e-6)
        assert values.view(15, 7)[at].tolist() == [round(number * 127 / most) for number in row.tolist()]
    assert (values * scales - x / (1 if divisor is None else divisor)).abs().max() <= 0.501 * scales.max()


def test_halves_go_to_even_numbers() -> None:
    values, scales = quantize_rows(torch.tensor([[127.0, 0.5, 1.5, 2.5, -0.5, -1.5]]), None)
    assert values.tolist() == [[127, 0, 2, 2, 0, -2]]
    assert scales.item() == 1


def test_rows_of_unusual_numbers() -> None:
    rows = torch.tensor([[0.0, -0.0], [1e-40, 0], [1e30, -2e30], [math.inf, 1], [math.nan, 1], [3e38, -math.inf]])
    values, scales = quantize_rows(rows, None)
    assert values.tolist() == [[0, 0], [0, 0], [64, -127], [0, 0], [0, 0], [0, 0]]
    assert scales[:2].tolist() == [[0], [0]]
    assert scales[2].item() == pytest.approx(2e30 / 127)
    assert not scales[3:].isfinite().any()
    w, weight_scales = quantize_weight(normal(3, 2))
    (result,) = int8_linears(values, scales, [w], [weight_scales], [None], "")
    assert result[:3].isfinite().all()
    assert result[3:].isnan().all()


def test_rows_of_any_layout_and_dtype() -> None:
    for x in LAYOUTS.values():
        for ours, expected in zip(quantize_rows(x, None), quantize_rows(x.contiguous(), None), strict=True):
            assert torch.equal(ours, expected)
    assert quantize_rows(normal(2, 8).double(), None)[1].dtype is torch.float64
    assert quantize_rows(normal(2, 8).bfloat16(), None)[1].dtype is torch.float32
    assert [t.shape for t in quantize_rows(torch.ones(0, 4), None)] == [(0, 4), (0, 1)]
    values, scales = quantize_rows(torch.ones(2, 0), None)
    assert values.shape == (2, 0)
    assert scales.tolist() == [[0], [0]]


@pytest.mark.parametrize("activation", ["", *ACTIVATIONS])
def test_int8_by_its_formula(activation: str) -> None:
    values, scales, w, weight_scales, bias = (
        int8(2, 3, 8),
        normal(2, 3, 1).exp(),
        int8(5, 8),
        normal(5).exp(),
        normal(5),
    )
    sums = torch.tensor(
        [[sum(a * b for a, b in zip(x, y, strict=True)) for y in w.tolist()] for x in values.view(6, 8).tolist()]
    )
    expected = sums.double().view(2, 3, 5) * 1e-4 * scales * weight_scales
    function = ACTIVATIONS[activation] if activation else torch.clone
    results = int8_linears(
        values, scales * 1e-4, [w, w[:2]], [weight_scales, weight_scales[:2]], [bias, None], activation
    )
    torch.testing.assert_close(results[0], function(expected + bias).float())
    torch.testing.assert_close(results[1], function(expected[..., :2]).float())


@pytest.mark.parametrize("depth", [1, 1024, 1025, 5000, 140_000])
def test_sums_are_exact(depth: int) -> None:
    """Whatever their order: the largest sums, and one that differs by 1."""
    values = torch.full((1, depth), -128, dtype=torch.int8)
    weight = torch.full((2, depth), -128, dtype=torch.int8)
    weight[1, 0], values[0, 0] = 127, -1
    ones = torch.ones(1, 1, dtype=torch.float64), torch.ones(2, dtype=torch.float64)
    (result,) = int8_linears(values, ones[0], [weight], [ones[1]], [None], "")
    assert result.tolist() == [[128 + (depth - 1) * 2**14, -127 + (depth - 1) * 2**14]]


@pytest.mark.parametrize(("bits", "group"), [(8, 0), (4, 32), (4, 96)])
def test_weight_only_by_its_formula(bits: int, group: int) -> None:
    x, w, bias = normal(2, 3, 96), normal(5, 96), normal(5)
    values, scales = quantize_weight_grouped(w, bits, group)
    full = dequantize_weight_grouped(values, scales, bits, group)
    results = weight_only_linears(x, [values, values[:2]], [scales, scales[:2]], [bias, None], "relu", bits, group)
    assert torch.equal(results[0], F.linear(x, full, bias).relu())
    assert torch.equal(results[1], F.linear(x, full[:2]).relu())
    assert weight_only_linears(x.double(), [values], [scales], [None], "", bits, group)[0].dtype is torch.float64


def test_a_weight_and_its_scales() -> None:
    w = torch.cat([normal(4, 30), torch.zeros(1, 30)])
    values, scales = quantize_weight(w)
    assert values.abs().amax(1).tolist() == [127] * 4 + [0]
    assert ((dequantize_weight(values, scales) - w).abs() <= 0.501 * scales[:, None]).all()
    clipped, narrow = quantize_weight(w, clip=1.0)
    assert narrow.tolist() == pytest.approx([min(1.0, each) / 127 for each in w.abs().amax(1).tolist()])
    assert ((dequantize_weight(clipped, narrow) - w.clamp(-1, 1)).abs() <= 0.501 * narrow[:, None]).all()
    each, _ = quantize_weight(w, clip=w.abs().amax(1) / 2)
    assert (each[:4].abs() == 127).sum(1).min() > 1
    assert quantize_weight(torch.ones(3, 0))[0].shape == (3, 0)


def test_where_the_numbers_of_4_bits_are() -> None:
    w = torch.cat([torch.arange(-8, 8), torch.arange(7, -9, -1)]).float()[None]
    values, scales = quantize_weight_grouped(w, 4, 32)
    assert (values.shape, scales.tolist()) == ((1, 16), [[1.0]])
    low, high = range(-8, 8), range(7, -9, -1)
    assert values[0].tolist() == [a % 16 + b % 16 * 16 for a, b in zip(low, high, strict=True)]
    assert torch.equal(dequantize_weight_grouped(values, scales, 4, 32), w)
    assert torch.equal(dequantize_weight_grouped(*quantize_weight_grouped(-w, 4, 32), 4, 32), -w)  # by a negative scale


def test_each_group_has_its_scale() -> None:
    w = normal(6, 128) * torch.tensor([1.0, 100.0]).repeat_interleave(64)
    values, scales = quantize_weight_grouped(w, 4, 64)
    assert scales.shape == (6, 2)
    error = (dequantize_weight_grouped(values, scales, 4, 64) - w).abs().unflatten(1, (2, 64)).amax(2)
    assert (error <= 1.001 * scales.abs()).all()
    zero = dequantize_weight_grouped(*quantize_weight_grouped(torch.zeros(2, 32), 4, 32), 4, 32)
    assert torch.equal(zero, torch.zeros(2, 32))


@pytest.mark.parametrize(("bits", "group"), [(3, 32), (4, 16), (4, 0), (4, 64), (4, -32)])
def test_formats_that_there_are_not(bits: int, group: int) -> None:
    with pytest.raises(ValueError, match="bits, not 3" if bits == 3 else f"groups of {group} numbers"):
        quantize_weight_grouped(torch.ones(2, 96), bits, group)


def test_what_torch_expects_of_operators() -> None:
    x, w = normal(2, 3, 32), normal(5, 32)
    values, scales = quantize_rows(x, None)
    eight, four, ops = quantize_weight(w), quantize_weight_grouped(w, 4, 32), torch.ops.txgraph
    torch.library.opcheck(ops.quantize_rows.default, (x, normal(32).exp()), **CHECKS)
    torch.library.opcheck(ops.int8_linears.default, (values, scales, [eight[0]], [eight[1]], [None], "gelu"), **CHECKS)
    operands = (x, [four[0]], [four[1]], [normal(5)], "", 4, 32)
    torch.library.opcheck(ops.weight_only_linears.default, operands, **CHECKS)
