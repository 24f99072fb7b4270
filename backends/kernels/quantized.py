"""Linears with quantized weights on CPUs: the operators of :mod:`txgraph.ir.quantized`, in C++.

In int8 the sums are exact, by VNNI where the processor has it and else in pairs of int16. With float32 inputs the
numbers of a weight become float32 in registers (few rows) or in blocks in the cache. Weights are read where they are,
``[N, K]``: there is no other copy.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence

import torch

from txgraph.backends.kernels.build import load, pointer
from txgraph.backends.kernels.linear import ACTIVATIONS
from txgraph.ir.ops import define

DEEPEST = 1 << 16  # K: so many products, of which one operand was shifted by 128, have room in 32 bits


def quantize_rows_native(input: torch.Tensor, divisor: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """:func:`txgraph.ir.quantized.quantize_rows` of float32 on a CPU."""
    values, scales = _quantized(input, divisor)
    rows, divisor = _rows(input), None if divisor is None else divisor.contiguous()
    load("quantized").quantize_rows(
        pointer(rows),
        pointer(divisor),
        pointer(values),
        pointer(scales),
        (ctypes.c_int64 * 3)(*rows.shape, rows.stride(0)),
        torch.get_num_threads(),
    )
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
    results = _of_rows(scales, weights)
    rows, scales = _rows(values), scales.contiguous()
    load("quantized").int8_linears(
        pointer(rows),
        pointer(scales),
        *_operands(weights, weight_scales, biases, results),
        (ctypes.c_int64 * 4)(*rows.shape, rows.stride(0), len(weights)),
        ACTIVATIONS.index(activation),
        torch.get_num_threads(),
    )
    return results


define(
    "int8_linears_native(Tensor values, Tensor scales, Tensor[] weights, Tensor[] weight_scales, Tensor?[] biases, "
    "str activation) -> Tensor[]",
    int8_linears_native,
    lambda values, scales, weights, *_: _of_rows(scales, weights),
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
    results = _of_rows(input, weights)
    rows = _rows(input)
    load("quantized").weight_only_linears(
        pointer(rows),
        *_operands(weights, weight_scales, biases, results),
        (ctypes.c_int64 * 6)(*rows.shape, rows.stride(0), len(weights), bits, group),
        ACTIVATIONS.index(activation),
        torch.get_num_threads(),
    )
    return results


define(
    "weight_only_linears_native(Tensor input, Tensor[] weights, Tensor[] weight_scales, Tensor?[] biases, "
    "str activation, int bits, int group) -> Tensor[]",
    weight_only_linears_native,
    lambda input, weights, *_: _of_rows(input, weights),
    key="CPU",
)


def _rows(input: torch.Tensor) -> torch.Tensor:
    rows = input.reshape(math.prod(input.shape[:-1]), input.shape[-1])
    return rows if rows.stride(1) == 1 else rows.contiguous()


def _of_rows(rows: torch.Tensor, weights: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    return [rows.new_empty((*rows.shape[:-1], weight.shape[0])) for weight in weights]


class _Pointers:
    """Pointers to tensors, for a call into a library: copies that are made of views live as long."""

    def __init__(self, tensors: Sequence[torch.Tensor | None]) -> None:
        self.tensors = [None if t is None else t.contiguous() for t in tensors]
        self._as_parameter_ = (ctypes.c_void_p * len(tensors))(*map(pointer, self.tensors))


def _operands(*of_each: Sequence[torch.Tensor | None]) -> tuple[object, ...]:
    """The arguments of a call for each weight: pointers, and the numbers of rows."""
    counts = [weight.shape[0] for weight in of_each[0] if weight is not None]
    return *map(_Pointers, of_each), (ctypes.c_int64 * len(counts))(*counts)
