"""Linear layers on CPUs in float32 that take the weights as the model stores them.

Libraries are fastest where they may keep a rearranged copy of the weight. This kernel needs none: it rearranges the
input instead, which is small where there are few rows. With AVX-512 it was as fast as oneDNN with such a copy, or
faster, from 4 to 128 rows; with AVX2 faster at 8 and 32 rows, and 8 % slower at 128.

source: Goto and van de Geijn 2008 (Anatomy of high-performance matrix multiplication), with the roles of the operands
        swapped; erfc: a polynomial of our own, see linear.cpp.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence

import torch

from txgraph.backends.kernels.build import load, pointer
from txgraph.ir.ops import define

ACTIVATIONS = ("", "relu", "gelu", "gelu_tanh", "quick_gelu", "silu", "sigmoid")  # in the order of linear.cpp's enum


def linears_native(
    input: torch.Tensor, weights: Sequence[torch.Tensor], biases: Sequence[torch.Tensor | None], activation: str
) -> list[torch.Tensor]:
    """``activation(input @ weight.T + bias)`` for each weight, of float32 on a CPU.

    Args:
        input: ``[..., K]``. biases: for each weight ``[N]`` or ``None``.
        weights: each ``[N, K]``; they are read where they are if all lie by rows, or all by columns.
        activation: one of :data:`ACTIVATIONS`.

    Returns:
        for each weight ``[..., N]``, contiguous.
    """
    results = _empty(input, weights)
    rows = input.reshape(math.prod(input.shape[:-1]), input.shape[-1])
    rows = rows if rows.stride(1) == 1 else rows.contiguous()
    columns = not all(w.is_contiguous() for w in weights) and all(w.t().is_contiguous() for w in weights)
    weights = weights if columns else [weight.contiguous() for weight in weights]
    biases = [None if bias is None else bias.contiguous() for bias in biases]
    pointers = ctypes.c_void_p * len(weights)
    load("kernels").linears(
        pointer(rows),
        pointers(*map(pointer, weights)),
        pointers(*map(pointer, biases)),
        pointers(*map(pointer, results)),
        (ctypes.c_int64 * len(weights))(*(weight.shape[0] for weight in weights)),
        (ctypes.c_int64 * 5)(*rows.shape, rows.stride(0), columns, len(weights)),
        ACTIVATIONS.index(activation),
        torch.get_num_threads(),
    )
    return results


def _empty(input: torch.Tensor, weights: Sequence[torch.Tensor], *_: object) -> list[torch.Tensor]:
    return [input.new_empty((*input.shape[:-1], weight.shape[0])) for weight in weights]


define(
    "linears_native(Tensor input, Tensor[] weights, Tensor?[] biases, str activation) -> Tensor[]",
    linears_native,
    _empty,
    key="CPU",
)
