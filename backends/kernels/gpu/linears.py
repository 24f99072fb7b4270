"""Linears with quantized weights on NVIDIA GPUs, in Triton: the operators of :mod:`txgraph.ir.quantized`.

torch's product of int8 on GPUs (``torch._int_mm``) refuses 16 rows or fewer, which the steps of a decoder have, and
leaves scales, bias and activation to another kernel. Of weights alone, numbers become floats on the way to the
registers: no copy of the weight in floats is written.

source: Frantar et al. 2024 (MARLIN), for weights that are unpacked where they are multiplied
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch.library import triton_op, wrap_triton

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
ACTIVATIONS = ("", "relu", "gelu", "gelu_tanh", "quick_gelu", "silu", "sigmoid")
_SMALLEST = 16  # rows of a product of tensor cores


@triton.jit
def txgraph_activated(x, ACTIVATION: tl.constexpr):
    """An activation of float32."""
    if ACTIVATION == "relu":
        x = tl.where(x < 0.0, 0.0, x)  # NaN stays
    elif ACTIVATION == "gelu":
        x = 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))
    elif ACTIVATION == "gelu_tanh":  # (1 + tanh(u)) / 2 = sigmoid(2 u)
        x = x * tl.sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x))
    elif ACTIVATION == "quick_gelu":
        x = x * tl.sigmoid(1.702 * x)
    elif ACTIVATION == "silu":
        x = x * tl.sigmoid(x)
    elif ACTIVATION == "sigmoid":
        x = tl.sigmoid(x)
    return x


@triton.jit
def txgraph_int8_linear(
    values,
    scales,
    weight,
    weight_scale,
    bias,
    result,
    rows,
    K,
    N,
    BIAS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """A block of rows and channels: the sum in int32, then scales, bias and activation in float32."""
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    x_at = values + m.to(tl.int64)[:, None] * K + k[None, :]
    w_at = weight + n.to(tl.int64)[None, :] * K + k[:, None]
    sums = tl.zeros((BLOCK_M, BLOCK_N), tl.int32)
    for first in range(0, K, BLOCK_K):
        inside = k < K - first
        x = tl.load(x_at + first, mask=(m < rows)[:, None] & inside[None, :], other=0)
        w = tl.load(w_at + first, mask=inside[:, None] & (n < N)[None, :], other=0)
        sums = tl.dot(x, w, sums, out_dtype=tl.int32)
    y = sums.to(tl.float32) * tl.load(scales + m, mask=m < rows, other=0.0)[:, None]
    y = y * tl.load(weight_scale + n, mask=n < N, other=0.0)[None, :]
    if BIAS:
        y += tl.load(bias + n, mask=n < N, other=0.0).to(tl.float32)[None, :]
    places = result + m.to(tl.int64)[:, None] * N + n[None, :]
    y = txgraph_activated(y, ACTIVATION).to(result.dtype.element_ty)
    tl.store(places, y, mask=(m < rows)[:, None] & (n < N)[None, :])


@triton.jit
def txgraph_weight_only_linear(
    input,
    weight,
    weight_scale,
    bias,
    result,
    rows,
    K,
    N,
    BITS: tl.constexpr,
    GROUP: tl.constexpr,  # numbers of a row that share a scale; 0: all
    BIAS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    BLOCK_M: tl.constexpr,  # 1: products are summed up one by one, else by tensor cores
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,  # bytes of a weight's row
):
    """A block of rows and channels: numbers of the weight become floats of the input's dtype in registers."""
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    in_n = n < N
    depth = K * BITS // 8
    dtype = input.dtype.element_ty
    if BLOCK_M == 1:
        terms = tl.zeros((BLOCK_N, BLOCK_K), tl.float32)
    else:
        sums = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for first in range(0, depth, BLOCK_K):
        at = first + tl.arange(0, BLOCK_K)
        inside = at < depth
        seen = in_n[:, None] & inside[None, :]
        packed = tl.load(weight + n.to(tl.int64)[:, None] * depth + at[None, :], mask=seen, other=0)
        for half in tl.static_range(8 // BITS):
            if BITS == 8:
                k = at
                numbers = packed.to(tl.float32)
            else:  # byte j of 16 holds number j in its low half, and number 16 + j in its high half
                k = at // 16 * 32 + at % 16 + 16 * half
                number = (packed.to(tl.int32) >> (4 * half)) & 15
                numbers = (number - ((number & 8) << 1)).to(tl.float32)
            if GROUP == 0:
                scale = tl.load(weight_scale + n, mask=in_n, other=0.0)[:, None]
            else:
                groups = weight_scale + n[:, None] * (K // GROUP) + (k // GROUP)[None, :]
                scale = tl.load(groups, mask=seen, other=0.0)
            w = (numbers * scale).to(dtype)
            x_at = input + m.to(tl.int64)[:, None] * K + k[None, :]
            x = tl.load(x_at, mask=(m < rows)[:, None] & inside[None, :], other=0.0)
            if BLOCK_M == 1:
                terms += w.to(tl.float32) * x.to(tl.float32)
            else:
                sums = tl.dot(x, tl.trans(w), sums, input_precision="ieee")
    if BLOCK_M == 1:
        sums = tl.sum(terms, 1)[None, :]
    if BIAS:
        sums += tl.load(bias + n, mask=in_n, other=0.0).to(tl.float32)[None, :]
    places = result + m.to(tl.int64)[:, None] * N + n[None, :]
    y = txgraph_activated(sums, ACTIVATION).to(result.dtype.element_ty)
    tl.store(places, y, mask=(m < rows)[:, None] & in_n[None, :])


@triton_op(
    "txgraph::int8_linear_triton",
    mutates_args=(),
    schema="(Tensor values, Tensor scales, Tensor weight, Tensor weight_scale, Tensor? bias, str activation) -> Tensor",
)
def int8_linear_triton(
    values: torch.Tensor,
    scales: torch.Tensor,
    weight: torch.Tensor,
    weight_scale: torch.Tensor,
    bias: torch.Tensor | None,
    activation: str,
) -> torch.Tensor:
    """One of :func:`txgraph.ir.quantized.int8_linears` on a GPU.

    Args:
        values: ``K`` is at most ``2**16``, so that sums have room in 32 bits. scales: float32.
        activation: one of :data:`ACTIVATIONS`.
    """
    depth, width = values.shape[-1], weight.shape[0]
    result = scales.new_empty((*values.shape[:-1], width))
    rows = math.prod(values.shape[:-1])
    blocks = int8_blocks(rows)
    wrap_triton(txgraph_int8_linear)[(triton.cdiv(rows, blocks["BLOCK_M"]), triton.cdiv(width, blocks["BLOCK_N"]))](
        values.contiguous(),
        scales.contiguous(),
        weight.contiguous(),
        weight_scale.contiguous(),
        weight_scale if bias is None else bias,  # without a bias nothing reads it
        result,
        rows,
        depth,
        width,
        BIAS=bias is not None,
        ACTIVATION=activation,
        **blocks,
    )
    return result


@triton_op(
    "txgraph::weight_only_linear_triton",
    mutates_args=(),
    schema="(Tensor input, Tensor weight, Tensor weight_scale, Tensor? bias, str activation, int bits, int group)"
    " -> Tensor",
)
def weight_only_linear_triton(
    input: torch.Tensor,
    weight: torch.Tensor,
    weight_scale: torch.Tensor,
    bias: torch.Tensor | None,
    activation: str,
    bits: int,
    group: int,
) -> torch.Tensor:
    """One of :func:`txgraph.ir.quantized.weight_only_linears` of :data:`DTYPES` on a GPU.

    Args:
        activation: one of :data:`ACTIVATIONS`.
    """
    depth, width = input.shape[-1], weight.shape[0]
    result = input.new_empty((*input.shape[:-1], width))
    rows = math.prod(input.shape[:-1])
    blocks = weight_only_blocks(rows, input.dtype)
    grid = (triton.cdiv(rows, blocks["BLOCK_M"]), triton.cdiv(width, blocks["BLOCK_N"]))
    wrap_triton(txgraph_weight_only_linear)[grid](
        input.contiguous(),
        weight.contiguous(),
        weight_scale.contiguous(),
        weight_scale if bias is None else bias,  # without a bias nothing reads it
        result,
        rows,
        depth,
        width,
        BITS=bits,
        GROUP=group if bits == 4 else 0,
        BIAS=bias is not None,
        ACTIVATION=activation,
        **blocks,
    )
    return result


def int8_blocks(rows: int | torch.SymInt) -> dict[str, int]:
    """Sizes of blocks, warps and stages for so many rows: not tuned. Many, where the number varies."""
    if isinstance(rows, int) and rows <= _SMALLEST:
        return {"BLOCK_M": 16, "BLOCK_N": 32, "BLOCK_K": 128, "num_warps": 4, "num_stages": 4}
    return {"BLOCK_M": 64, "BLOCK_N": 128, "BLOCK_K": 64, "num_warps": 4, "num_stages": 3}


def weight_only_blocks(rows: int | torch.SymInt, dtype: torch.dtype) -> dict[str, int]:
    """Likewise; one row, as in a decoder's step, is multiplied without tensor cores."""
    if isinstance(rows, int) and rows == 1:
        return {"BLOCK_M": 1, "BLOCK_N": 16, "BLOCK_K": 128, "num_warps": 4, "num_stages": 3}
    if isinstance(rows, int) and rows <= _SMALLEST:
        return {"BLOCK_M": 16, "BLOCK_N": 32, "BLOCK_K": 64, "num_warps": 4, "num_stages": 3}
    M, N, K = (32, 32, 32) if dtype is torch.float32 else (64, 64, 32)
    return {"BLOCK_M": M, "BLOCK_N": N, "BLOCK_K": K, "num_warps": 4, "num_stages": 3}
