"""Quantized and given back in floats, so that a model can train with what quantization will do to it.

Forward these are ``values * scales`` of :mod:`txgraph.ir.quantized`, number by number. Backward they are what they
stand for, ``input / divisor`` and ``weight * divisor``, as if nothing were rounded: a straight-through estimator.

source: Bengio, Leonard, Courville 2013 (Estimating or propagating gradients through stochastic neurons), section 4;
        Jacob et al. 2018, section 3
"""

from __future__ import annotations

from typing import Any

import torch

from txgraph.ir.ops import define, differentiate
from txgraph.ir.quantized import (
    dequantize_weight_grouped,
    quantize_rows,
    quantize_weight_grouped,
)


def fake_quantize_rows(input: torch.Tensor, divisor: torch.Tensor | None) -> torch.Tensor:
    """``values * scales`` of :func:`txgraph.ir.quantized.quantize_rows`: about ``input / divisor``.

    Args:
        input: ``[..., K]``. divisor: ``[K]``, or ``None`` for 1.

    Returns:
        ``[..., K]`` in the dtype of ``input``.
    """
    values, scales = quantize_rows(input, divisor)
    return (values.to(scales.dtype) * scales).to(input.dtype).contiguous()


def fake_quantize_weight(weight: torch.Tensor, divisor: torch.Tensor | None, bits: int, group: int) -> torch.Tensor:
    """``values * scales`` of :func:`quantized_weight`: about ``weight * divisor``.

    Args:
        weight: ``[N, K]``. divisor: ``[K]``, or ``None`` for 1. bits: 4 or 8.
        group: how many numbers of a row share a scale in 4 bits; nothing in 8 bits, where all of a row do.

    Returns:
        ``[N, K]`` in the dtype of ``weight``.

    Raises:
        ValueError: neither 4 nor 8 bits, or groups that do not fit.
    """
    values, scales = quantized_weight(weight, divisor, bits, group)
    if weight.dtype is torch.float64:
        scales = scales.double()
    return dequantize_weight_grouped(values, scales, bits, group).to(weight.dtype)


def quantized_weight(
    weight: torch.Tensor, divisor: torch.Tensor | None, bits: int, group: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The values and scales that :func:`fake_quantize_weight` multiplies: see ``quantize_weight_grouped``."""
    full = weight.detach().float()
    return quantize_weight_grouped(full if divisor is None else full * divisor.float(), bits, group)


def _keep_divisor(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    ctx.save_for_backward(*(() if inputs[1] is None else (inputs[1],)))


def _rows_backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
    divisor = ctx.saved_tensors
    return (gradient / divisor[0] if divisor else gradient), None


def _weight_backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
    divisor = ctx.saved_tensors
    return (gradient * divisor[0] if divisor else gradient), None, None, None


define(
    "fake_quantize_rows(Tensor input, Tensor? divisor) -> Tensor",
    fake_quantize_rows,
    lambda input, _: input.new_empty(input.shape),
)
differentiate("fake_quantize_rows", _rows_backward, _keep_divisor)

define(
    "fake_quantize_weight(Tensor weight, Tensor? divisor, int bits, int group) -> Tensor",
    fake_quantize_weight,
    lambda weight, *_: weight.new_empty(weight.shape),
)
differentiate("fake_quantize_weight", _weight_backward, _keep_divisor)
