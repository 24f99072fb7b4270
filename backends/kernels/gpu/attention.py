"""Attention of packed tokens on NVIDIA GPUs, in Triton.

torch's own kernel for sequences of different lengths (``torch.nn.attention.varlen``) takes no mask or bias, no float32,
and wants the greatest length on the host, for which a call would wait for the device. This one takes what
``txgraph::ragged_attention`` takes, and reads the lengths where they are.

source: Dao et al. 2022 (FlashAttention): scores stay in registers, sums are rescaled as larger scores come;
        Dao 2023 (FlashAttention-2): a program for each block of queries
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch.library import triton_op, wrap_triton

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
LARGEST_HEAD = 256
_ROWS = 128  # how many sequences are looked through at a time for the one that a program works on


@triton.jit
def txgraph_ragged_attention(
    query,
    key,
    value,
    result,
    row,
    position,
    lengths,
    mask,
    rows,
    query_token,
    query_head,
    key_token,
    key_head,
    value_token,
    value_head,
    mask_row,
    mask_head,
    mask_query,
    mask_key,
    SCALE: tl.constexpr,
    GROUP: tl.constexpr,  # heads of queries for one of keys
    CAUSAL: tl.constexpr,
    MASK: tl.constexpr,
    D: tl.constexpr,
    DV: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_DV: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    ROWS: tl.constexpr,
):
    """A block of queries of one sequence and one head. ``MASK``: 0 none, 1 boolean, 2 added to the scores."""
    # Sequences come in the order of their lengths: programs that start first take the longest.
    number = tl.num_programs(0) - 1 - tl.program_id(0)
    head = tl.program_id(1)

    # The sequence that has block `number` of queries: where it starts, its length, and which of its blocks that is.
    start, length, block, blocks_before, tokens_before = 0, 0, 0, 0, 0
    for first in range(0, rows, ROWS):
        at = first + tl.arange(0, ROWS)
        sizes = tl.load(lengths + at, mask=at < rows, other=0).to(tl.int32)
        blocks = (sizes + BLOCK_M - 1) // BLOCK_M
        upto = blocks_before + tl.cumsum(blocks, 0)
        mine = (upto - blocks <= number) & (number < upto)
        start += tl.sum(tl.where(mine, tokens_before + tl.cumsum(sizes, 0) - sizes, 0), 0)
        length += tl.sum(tl.where(mine, sizes, 0), 0)
        block += tl.sum(tl.where(mine, number - upto + blocks, 0), 0)
        blocks_before += tl.sum(blocks, 0)
        tokens_before += tl.sum(sizes, 0)

    if length > 0:
        m = block * BLOCK_M + tl.arange(0, BLOCK_M)
        d = tl.arange(0, BLOCK_D)
        dv = tl.arange(0, BLOCK_DV)
        in_m = m < length
        origin = tl.cast(start, tl.int64)  # times a stride it may be beyond 32 bits
        queries = query + (origin + m)[:, None] * query_token + head * query_head + d[None, :]
        q = tl.load(queries, mask=in_m[:, None] & (d < D)[None, :], other=0.0)
        if MASK:
            mask += tl.load(row + start) * mask_row + head * mask_head
            q_places = tl.load(position + start + m, mask=in_m, other=0)

        most = tl.full((BLOCK_M,), float("-inf"), tl.float32)
        total = tl.zeros((BLOCK_M,), tl.float32)
        sums = tl.zeros((BLOCK_M, BLOCK_DV), tl.float32)
        end = length
        if CAUSAL:
            end = tl.minimum(length, (block + 1) * BLOCK_M)
        for first in range(0, end, BLOCK_N):
            n = first + tl.arange(0, BLOCK_N)
            in_n = n < length
            keys = key + (origin + n)[None, :] * key_token + head // GROUP * key_head + d[:, None]
            k = tl.load(keys, mask=(d < D)[:, None] & in_n[None, :], other=0.0)
            scores = tl.dot(q, k, input_precision="ieee") * SCALE
            seen = in_n[None, :]
            if CAUSAL:
                seen = seen & (n[None, :] <= m[:, None])
            if MASK:
                k_places = tl.load(position + start + n, mask=in_n, other=0)
                places = mask + q_places[:, None] * mask_query + k_places[None, :] * mask_key
                given = tl.load(places, mask=in_m[:, None] & in_n[None, :], other=0)
                if MASK == 1:
                    seen = seen & (given != 0)
                else:
                    scores += given.to(tl.float32)
            scores = tl.where(seen, scores, float("-inf"))
            larger = tl.maximum(most, tl.max(scores, 1))
            base = tl.where(larger == float("-inf"), 0.0, larger)  # a query that sees no key yet
            weights = tl.exp(scores - base[:, None])
            shrunk = tl.exp(most - base)
            values = value + (origin + n)[:, None] * value_token + head // GROUP * value_head + dv[None, :]
            v = tl.load(values, mask=in_n[:, None] & (dv < DV)[None, :], other=0.0)
            total = total * shrunk + tl.sum(weights, 1)
            sums = sums * shrunk[:, None] + tl.dot(weights.to(v.dtype), v, input_precision="ieee")
            most = larger

        mean = sums / tl.where(total == 0.0, 1.0, total)[:, None]  # a query that sees no key gives 0
        heads = tl.num_programs(1)
        places = result + ((origin + m)[:, None] * heads + head) * DV + dv[None, :]
        tl.store(places, mean.to(result.dtype.element_ty), mask=in_m[:, None] & (dv < DV)[None, :])


@triton_op(
    "txgraph::ragged_attention_triton",
    mutates_args=(),
    schema="(Tensor query, Tensor key, Tensor value, Tensor row, Tensor position, Tensor lengths, Tensor? attn_mask, "
    "bool is_causal, float? scale) -> Tensor",
)
def ragged_attention_triton(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    row: torch.Tensor,
    position: torch.Tensor,
    lengths: torch.Tensor,
    attn_mask: torch.Tensor | None,
    is_causal: bool,
    scale: float | None,
) -> torch.Tensor:
    """:func:`txgraph.ir.packed.ragged_attention` of :data:`DTYPES` on a GPU; ``G`` divides ``H``.

    Args:
        query, key, value: heads have at most :data:`LARGEST_HEAD` features.
    """
    query, key, value = map(_with_plain_features, (query, key, value))
    tokens, heads, depth = query.shape
    width = value.shape[2]
    result = query.new_empty((tokens, heads, width))
    steps, kind = [0] * 4, 0
    if attn_mask is not None:
        attn_mask = attn_mask[(None,) * (4 - attn_mask.ndim)]
        steps = [step if size != 1 else 0 for step, size in zip(attn_mask.stride(), attn_mask.shape, strict=True)]
        kind = 1 if attn_mask.dtype is torch.bool else 2
    blocks = block_sizes(query.dtype, depth, width, masked=kind > 0)
    # Blocks of all sequences: each has one at most that is not full.
    grid = (triton.cdiv(tokens, blocks["BLOCK_M"]) + lengths.shape[0], heads)
    wrap_triton(txgraph_ragged_attention)[grid](
        query,
        key,
        value,
        result,
        row,
        position,
        lengths,
        row if attn_mask is None else attn_mask,  # without a mask nothing reads it
        lengths.shape[0],
        *query.stride()[:2],
        *key.stride()[:2],
        *value.stride()[:2],
        *steps,
        SCALE=depth**-0.5 if scale is None else scale,
        GROUP=heads // key.shape[1],
        CAUSAL=is_causal,
        MASK=kind,
        D=depth,
        DV=width,
        ROWS=_ROWS,
        **blocks,
    )
    return result


def block_sizes(dtype: torch.dtype, depth: int, width: int, masked: bool) -> dict[str, int]:
    """Sizes of blocks, and warps and stages: not tuned.

    With these what a thread computes stays in registers on sm_80 and sm_90, but for 32 bytes at most.
    """
    deepest = max(depth, width)
    if dtype is torch.float32:  # its products are not those of tensor cores: these would round to 10 bits
        M, N = (32, 32) if deepest <= 128 else (16, 16)
        warps = 4 if deepest <= 64 else 8
    else:
        M, N = (64, 64) if deepest <= 128 else (64, 32)
        warps = 4 if deepest <= 64 and not masked else 8
    sizes = {"BLOCK_M": M, "BLOCK_N": N, "num_warps": warps, "num_stages": 2}
    sizes |= {name: max(16, triton.next_power_of_2(size)) for name, size in (("BLOCK_D", depth), ("BLOCK_DV", width))}
    return sizes


def _with_plain_features(value: torch.Tensor) -> torch.Tensor:
    """The kernel takes any strides but that of the last axis."""
    return value if value.stride(-1) == 1 else value.contiguous()
