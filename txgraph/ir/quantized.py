"""Linears with quantized weights, and how tensors are quantized.

Quantization is symmetric: ``x`` is about ``values * scales``, with small integers as values. The definitions here are
the exact simulation of the loss: a kernel may differ from them by the rounding of float32 alone.

source: Jacob et al. 2018 (Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
        Inference); a divisor per channel: Xiao et al. 2023 (SmoothQuant); groups of 4 bits: Frantar et al. 2023 (GPTQ).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from txgraph.ir.ops import ACTIVATIONS, define

LARGEST = 127  # of int8; -128 is not used
HALF_BLOCK = 16  # bytes of a block of 4-bit numbers: twice as many numbers
_EXACT_DEPTH = 1 << 10  # float32 holds sums of so many products of two int8 exactly


def _float(dtype: torch.dtype) -> torch.dtype:
    """In which the scales of a tensor are: float32, or what is wider."""
    return torch.promote_types(dtype, torch.float32)


def quantize_rows(input: torch.Tensor, divisor: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Each row of ``x = input / divisor`` in int8, by its own largest magnitude.

    ``scales = max |x| / 127`` and ``values = round(x * (127 / max |x|))``, half to even. A row of zeros, or one so
    small that ``127 / max |x|`` is no finite number, has the scale 0 and the values 0. A row with an infinity or a NaN
    has the values 0 and a scale that is not finite: a linear of it is NaN.

    Args:
        input: ``[..., K]``. divisor: ``[K]``, or ``None`` for 1: moves scale from the input to a weight ``[N, K]`` that
            is multiplied by it.

    Returns:
        int8 ``[..., K]`` and float32 ``[..., 1]`` (float64 if the input is).
    """
    x = input.to(_float(input.dtype))
    x = x if divisor is None else x / divisor
    most = x.abs().amax(-1, keepdim=True) if x.shape[-1] else x.new_zeros((*x.shape[:-1], 1))
    factor = torch.full_like(most, LARGEST) / most  # of a number by a tensor torch makes a reciprocal and a product
    usable = (factor > 0) & factor.isfinite()
    values = torch.where(usable, (x * factor).round(), 0).to(torch.int8)
    return values, torch.where(usable, most / LARGEST, torch.where(most < 1, 0.0, most))


define(
    "quantize_rows(Tensor input, Tensor? divisor) -> (Tensor values, Tensor scales)",
    quantize_rows,
    lambda input, _: (
        input.new_empty(input.shape, dtype=torch.int8),
        input.new_empty((*input.shape[:-1], 1), dtype=_float(input.dtype)),
    ),
)


def _activated(value: torch.Tensor, activation: str) -> torch.Tensor:
    return ACTIVATIONS[activation](value) if activation else value


def int8_linears(
    values: torch.Tensor,
    scales: torch.Tensor,
    weights: Sequence[torch.Tensor],
    weight_scales: Sequence[torch.Tensor],
    biases: Sequence[torch.Tensor | None],
    activation: str,
) -> list[torch.Tensor]:
    """``activation((values @ weight.T) * scales * weight_scale + bias)`` for each weight; the sums are exact.

    Args:
        values, scales: int8 ``[..., K]`` and ``[..., 1]``, see :func:`quantize_rows`.
        weights: each int8 ``[N, K]``. weight_scales: for each ``[N]``, see :func:`quantize_weight`.
        biases: for each ``[N]`` or ``None``. activation: a key of ``txgraph.ir.ops.ACTIVATIONS``, or empty.

    Returns:
        for each weight ``[..., N]`` in the dtype of ``scales``.
    """
    exact = torch.float32 if values.shape[-1] <= _EXACT_DEPTH else torch.float64
    results = []
    for weight, weight_scale, bias in zip(weights, weight_scales, biases, strict=True):
        sums = F.linear(values.to(exact), weight.to(exact)).to(scales.dtype)
        result = sums * scales * weight_scale
        results.append(_activated(result if bias is None else result + bias, activation))
    return results


define(
    "int8_linears(Tensor values, Tensor scales, Tensor[] weights, Tensor[] weight_scales, Tensor?[] biases, "
    "str activation) -> Tensor[]",
    int8_linears,
    lambda values, scales, weights, *_: [scales.new_empty((*values.shape[:-1], weight.shape[0])) for weight in weights],
)


def weight_only_linears(
    input: torch.Tensor,
    weights: Sequence[torch.Tensor],
    weight_scales: Sequence[torch.Tensor],
    biases: Sequence[torch.Tensor | None],
    activation: str,
    bits: int,
    group: int,
) -> list[torch.Tensor]:
    """``activation(input @ weight.T + bias)`` for each weight, which is kept in ``bits`` bits a number.

    Args:
        input: ``[..., K]``.
        weights, weight_scales: of 8 bits each int8 ``[N, K]`` with ``[N, 1]``; of 4 bits each uint8 ``[N, K / 2]`` with
            ``[N, K / group]``. See :func:`quantize_weight_grouped`.
        biases: for each ``[N]`` or ``None``. activation: a key of ``txgraph.ir.ops.ACTIVATIONS``, or empty.
        bits: 4 or 8. group: how many numbers of a row share a scale in 4 bits, a multiple of 32 that divides ``K``;
            nothing in 8 bits.

    Returns:
        for each weight ``[..., N]`` in the dtype of ``input``.
    """
    results = []
    for weight, scales, bias in zip(weights, weight_scales, biases, strict=True):
        full = dequantize_weight_grouped(weight, scales, bits, group).to(input.dtype)
        results.append(_activated(F.linear(input, full, bias), activation))
    return results


define(
    "weight_only_linears(Tensor input, Tensor[] weights, Tensor[] weight_scales, Tensor?[] biases, str activation, "
    "int bits, int group) -> Tensor[]",
    weight_only_linears,
    lambda input, weights, *_: [input.new_empty((*input.shape[:-1], weight.shape[0])) for weight in weights],
)


def quantize_weight(
    weight: torch.Tensor, clip: torch.Tensor | float | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """A weight in int8, with a scale for each output channel.

    Args:
        weight: ``[N, K]``.
        clip: the largest magnitude that is kept, ``[N]`` or one for all; larger numbers become that. ``None``: the
            largest of each channel.

    Returns:
        int8 ``[N, K]`` and float32 ``[N]``.
    """
    full = weight.detach().to(torch.float32)
    most = full.abs().amax(1) if full.shape[1] else full.new_zeros(len(full))
    if clip is not None:
        most = torch.minimum(most, torch.as_tensor(clip, dtype=most.dtype, device=most.device))
    scales = most / LARGEST
    values = torch.where(scales[:, None] > 0, full / scales[:, None], 0).round().clamp(-LARGEST, LARGEST)
    return values.to(torch.int8), scales


def dequantize_weight(values: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """``values * scales`` of :func:`quantize_weight`, float32 ``[N, K]``."""
    return values.to(scales.dtype) * scales[:, None]


def quantize_weight_grouped(weight: torch.Tensor, bits: int = 4, group: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    """A weight as :func:`weight_only_linears` takes it.

    In 4 bits the values are -8 to 7, and the number of the largest magnitude in a group becomes -8: a scale may be
    negative. Of each 32 numbers, byte ``j`` of 16 holds number ``j`` in its low half and number ``16 + j`` in its high
    half, in two's complement.

    Args:
        weight: ``[N, K]``. bits: 4 or 8. group: see :func:`weight_only_linears`.

    Returns:
        uint8 ``[N, K / 2]`` and float32 ``[N, K / group]``; in 8 bits int8 ``[N, K]`` and ``[N, 1]``.

    Raises:
        ValueError: neither 4 nor 8 bits, or groups that do not fit.
    """
    _check(bits, group, weight.shape[1])
    if bits == 8:
        values, scales = quantize_weight(weight)
        return values, scales[:, None]
    groups = weight.detach().to(torch.float32).unflatten(1, (-1, group))
    most = groups.gather(2, groups.abs().argmax(2, keepdim=True))
    scales = most / -8
    values = torch.where(scales != 0, groups / scales, 0).round().clamp(-8, 7)
    return pack_halves(values.flatten(1)), scales[..., 0]


def pack_halves(values: torch.Tensor) -> torch.Tensor:
    """Whole numbers from -8 to 7, ``[N, K]``, two to a byte as in :func:`quantize_weight_grouped`."""
    low, high = values.to(torch.int8).reshape(len(values), -1, 2, HALF_BLOCK).unbind(2)
    packed = low.bitwise_and(15).bitwise_or(high.bitwise_left_shift(4))
    return packed.flatten(1).view(torch.uint8)


def dequantize_weight_grouped(values: torch.Tensor, scales: torch.Tensor, bits: int, group: int) -> torch.Tensor:
    """The weight ``[N, K]`` that :func:`quantize_weight_grouped` gave, in the dtype of the scales.

    Raises:
        ValueError: neither 4 nor 8 bits, or groups that do not fit.
    """
    _check(bits, group, values.shape[1] * 8 // bits if bits else 0)
    if bits == 8:
        return values.to(scales.dtype) * scales
    blocks = values.view(torch.int8).unflatten(1, (-1, HALF_BLOCK))
    low, high = blocks.bitwise_left_shift(4).bitwise_right_shift(4), blocks.bitwise_right_shift(4)
    numbers = torch.stack((low, high), 2).to(scales.dtype)
    return numbers.reshape(len(values), -1, group).mul(scales[..., None]).flatten(1)


def _check(bits: int, group: int, depth: int) -> None:
    if bits not in (4, 8):
        raise ValueError(f"weights are quantized to 4 or 8 bits, not {bits}")
    if bits == 4 and (group <= 0 or group % (2 * HALF_BLOCK) or depth % group):
        raise ValueError(f"groups of {group} numbers: not a multiple of {2 * HALF_BLOCK} that divides {depth}")
