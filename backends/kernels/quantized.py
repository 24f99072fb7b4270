"""Linears with quantized weights on CPUs: the operators of :mod:`txgraph.ir.quantized`, in C++.

In int8 the sums are exact, by VNNI where the processor has it and else in pairs of int16. With float32 inputs the
numbers of a weight become float32 in registers (few rows) or in blocks in the cache. Weights are read where they are,
``[N, K]``: there is no other copy.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from txgraph.backends.kernels.calls import call, call_linears, empty_results, rows_of, whole
from txgraph.ir.ops import define

DEEPEST = 1 << 16  # K: so many products, of which one operand was shifted by 128, have room in 32 bits


def quantize_rows_native(input: torch.Tensor, divisor: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """:func:`txgraph.ir.quantized.quantize_rows` of float32 on a CPU."""
    values, scales = _quantized(input)
    (rows, sizes), divisor = rows_of(input), None if divisor is None else divisor.contiguous()
    beside = 0 if divisor is None else divisor.data_ptr()
    threads = torch.get_num_threads()
    call("quantized", "quantize_rows", rows.data_ptr(), beside, *sizes, threads, values.data_ptr(), scales.data_ptr())
    return values, scales


def _quantized(input: torch.Tensor, *_: object) -> tuple[torch.Tensor, torch.Tensor]:
    return input.new_empty(input.shape, dtype=torch.int8), input.new_empty((*input.shape[:-1], 1))


define(
    "quantize_rows_native(Tensor input, Tensor? divisor) -> (Tensor values, Tensor scales)",
    quantize_rows_native,
    _quantized,
    key="CPU",
)


def int8_linears_native(
    values: torch.Tensor,
    scales: torch.Tensor,
    weights: Sequence[torch.Tensor],
    weight_scales: Sequence[torch.Tensor],
    biases: Sequence[torch.Tensor | None],
    activation: str,
) -> list[torch.Tensor]:
    """:func:`txgraph.ir.quantized.int8_linears` of float32 scales on a CPU.

    Args:
        values: ``K`` is at most :data:`DEEPEST`. activation: one of :data:`ACTIVATIONS` of the float32 kernel.
    """
    results, scales = empty_results(scales, weights), scales.contiguous()
    weights, weight_scales = whole(weights), whole(weight_scales)
    beside = (scales.data_ptr(),)
    call_linears("quantized", "int8_linears", values, beside, weights, weight_scales, biases, activation, results)
    return results


define(
    "int8_linears_native(Tensor values, Tensor scales, Tensor[] weights, Tensor[] weight_scales, Tensor?[] biases, "
    "str activation) -> Tensor[]",
    int8_linears_native,
    lambda values, scales, weights, *_: empty_results(scales, weights),
    key="CPU",
)


def quantized_linears_native(
    input: torch.Tensor,
    divisor: torch.Tensor | None,
    weights: Sequence[torch.Tensor],
    weight_scales: Sequence[torch.Tensor],
    biases: Sequence[torch.Tensor | None],
    activation: str,
) -> list[torch.Tensor]:
    """:func:`int8_linears_native` of :func:`quantize_rows_native`, in one call."""
    results, divisor = empty_results(input, weights), None if divisor is None else divisor.contiguous()
    weights, weight_scales = whole(weights), whole(weight_scales)
    beside = (0 if divisor is None else divisor.data_ptr(),)
    call_linears("quantized", "quantized_linears", input, beside, weights, weight_scales, biases, activation, results)
    return results


define(
    "quantized_linears_native(Tensor input, Tensor? divisor, Tensor[] weights, Tensor[] weight_scales, "
    "Tensor?[] biases, str activation) -> Tensor[]",
    quantized_linears_native,
    lambda input, _, weights, *__: empty_results(input, weights),
    key="CPU",
)


def weight_only_linears_native(
    input: torch.Tensor,
    weights: Sequence[torch.Tensor],
    weight_scales: Sequence[torch.Tensor],
    biases: Sequence[torch.Tensor | None],
    activation: str,
    bits: int,
    group: int,
) -> list[torch.Tensor]:
    """:func:`txgraph.ir.quantized.weight_only_linears` of float32 on a CPU.

    Args:
        activation: one of :data:`ACTIVATIONS` of the float32 kernel.
    """
    results = empty_results(input, weights)
    weights, weight_scales, beside = whole(weights), whole(weight_scales), (bits, group)
    call_linears("quantized", "weight_only_linears", input, beside, weights, weight_scales, biases, activation, results)
    return results


define(
    "weight_only_linears_native(Tensor input, Tensor[] weights, Tensor[] weight_scales, Tensor?[] biases, "
    "str activation, int bits, int group) -> Tensor[]",
    weight_only_linears_native,
    lambda input, weights, *_: empty_results(input, weights),
    key="CPU",
)
