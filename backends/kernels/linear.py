"""A linear layer on CPUs in float32 that takes the weight as the model stores it.

Libraries are fastest where they may keep a rearranged copy of the weight. This kernel needs none: it rearranges the
input instead, which is small where there are few rows. With AVX-512 it was as fast as oneDNN with such a copy, or
faster, from 4 to 128 rows; with AVX2 faster at 8 and 32 rows, and 8 % slower at 128.

source: Goto and van de Geijn 2008 (Anatomy of high-performance matrix multiplication), with the roles of the operands
        swapped; erfc: a polynomial of our own, see linear.cpp.
"""

from __future__ import annotations

import ctypes
import math

import torch

from txgraph.backends.kernels.build import load, pointer
from txgraph.ir.ops import define

ACTIVATIONS = ("", "relu", "gelu", "gelu_tanh", "quick_gelu", "silu", "sigmoid")  # in the order of linear.cpp's enum


def linear_native(
    input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, activation: str
) -> torch.Tensor:
    """``activation(input @ weight.T + bias)`` of float32 on a CPU.

    Args:
        input: ``[..., K]``. bias: ``[N]`` or ``None``.
        weight: ``[N, K]``; it is read where it is if it lies by rows or by columns.
        activation: one of :data:`ACTIVATIONS`.

    Returns:
        ``[..., N]``, contiguous.
    """
    result = input.new_empty((*input.shape[:-1], weight.shape[0]))
    rows = input.reshape(math.prod(input.shape[:-1]), input.shape[-1])
    rows = rows if rows.stride(1) == 1 else rows.contiguous()
    columns = not weight.is_contiguous() and weight.t().is_contiguous()
    weight, bias = weight if columns else weight.contiguous(), None if bias is None else bias.contiguous()
    sizes = (ctypes.c_int64 * 5)(*rows.shape, weight.shape[0], rows.stride(0), columns)
    load("linear").linear(
        *map(pointer, (rows, weight, bias, result)), sizes, ACTIVATIONS.index(activation), torch.get_num_threads()
    )
    return result


define(
    "linear_native(Tensor input, Tensor weight, Tensor? bias, str activation) -> Tensor",
    linear_native,
    lambda input, weight, *_: input.new_empty((*input.shape[:-1], weight.shape[0])),
    key="CPU",
)
