"""Attention on CPUs in float32: of a padded batch, of packed tokens, in windows, and above a threshold.

All are one C++ kernel. A thread computes a block of queries of one head: their scores stay in the cache, and no length
is too short to be worth a call. torch's own kernel for CPUs is made for long sequences, and takes one length at a time.
Keys that a mask hides from a whole block are left out, 64 at a time, where keys and values are finite: with a window
of 256 over 4096 tokens (12 heads of 64, one thread, AVX-512) 66 ms instead of 599, where torch's kernel takes 735.
Windows that are told need no mask to be read.

Above a threshold, all scores are computed, and of each eight queries the keys that some of them keeps are gathered: the
exponentials and the sum of values are of these. Blocks of keys, which are what others leave out together, would have to
be negligible for all queries of a block of them: there are few such (docs/adr/0036).

source: Dao et al. 2022 (FlashAttention) for blocks of queries whose scores never leave the cache; the sums are not
        rescaled: a block sees all its keys at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from txgraph.backends.kernels.calls import call
from txgraph.ir.ops import define


def attention_native(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None,
    is_causal: bool,
    scale: float | None,
) -> torch.Tensor:
    """:func:`torch.nn.functional.scaled_dot_product_attention` of float32 on a CPU.

    Args:
        query: ``[B, H, S, D]``. key: ``[B, G, T, D]``. value: ``[B, G, T, Dv]``; ``G`` divides ``H``.
        attn_mask: float32 or boolean, broadcasts to ``[B, H, S, T]``.

    Returns:
        ``[B, H, S, Dv]``, in memory as ``[B, S, H, Dv]``: what joins the heads is a view.
    """
    return _dense(query, key, value, attn_mask=attn_mask, is_causal=is_causal, scale=scale)


def window_attention_native(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    first: torch.Tensor,
    end: torch.Tensor,
    sinks: int,
    scale: float | None,
) -> torch.Tensor:
    """:func:`txgraph.ir.ops.window_attention` of float32 on a CPU; ``G`` divides ``H``.

    Returns:
        ``[B, H, S, Dv]``, in memory as ``[B, S, H, Dv]``.
    """
    window = (first.contiguous(), end.contiguous())
    return _dense(query, key, value, window=window, sinks=sinks, scale=scale)


def threshold_attention_native(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None,
    is_causal: bool,
    scale: float | None,
    threshold: float,
) -> torch.Tensor:
    """:func:`txgraph.ir.ops.threshold_attention` of float32 on a CPU; ``G`` divides ``H``.

    Returns:
        ``[B, H, S, Dv]``, in memory as ``[B, S, H, Dv]``.
    """
    return _dense(query, key, value, attn_mask=attn_mask, is_causal=is_causal, scale=scale, threshold=threshold)


def ragged_attention_native(
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
    """:func:`txgraph.ir.packed.ragged_attention` of float32 on a CPU; ``G`` divides ``H``."""
    result = _packed_result(query, value)
    query, key, value = map(_with_plain_features, (query, key, value))
    strides = [(0, *t.stride()[:2]) for t in (query, key, value)]
    sizes = (len(lengths), query.shape[1], key.shape[1], query.shape[2], value.shape[2], 0, 0)
    _run(query, key, value, result, sizes, strides, (row, position, lengths), attn_mask, is_causal, scale)
    return result


def _dense(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **asked: Any) -> torch.Tensor:
    """Attention of rows that are all of one length; ``asked`` goes to the kernel, which wants strides ``[B, S, H]``."""
    result = _result(query, value)
    query, key, value = map(_with_plain_features, (query, key, value))
    (batch, heads, queries, depth), (_, key_heads, keys, width) = query.shape, value.shape
    strides = []
    for tensor in (query, key, value):
        row, head, token, _ = tensor.stride()
        strides.append((row, token, head))
    sizes = (batch, heads, key_heads, depth, width, queries, keys)
    _run(query, key, value, result, sizes, strides, **asked)
    return result


def _run(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    result: torch.Tensor,
    sizes: Sequence[int],
    strides: Sequence[Sequence[int]],
    places: Sequence[torch.Tensor | None] = (None, None, None),
    attn_mask: torch.Tensor | None = None,
    is_causal: bool = False,
    scale: float | None = None,
    window: Sequence[torch.Tensor | None] = (None, None),
    sinks: int = 0,
    threshold: float = 0.0,
) -> None:
    steps = [0] * 4
    if attn_mask is not None:
        attn_mask = attn_mask if attn_mask.ndim == 4 else attn_mask[(None,) * (4 - attn_mask.ndim)]
        steps = [step if size > 1 else 0 for step, size in zip(attn_mask.stride(), attn_mask.shape, strict=True)]
    call(
        "kernels",
        "attention",
        torch.get_num_threads(),
        *[t.data_ptr() for t in (query, key, value, result)],
        *sizes,
        *[step for each in strides for step in each],
        is_causal,
        *map(_address, places),
        *(_address(attn_mask), *steps, attn_mask is not None and attn_mask.dtype is torch.bool),
        *map(_address, window),
        sinks,
        factors=(query.shape[-1] ** -0.5 if scale is None else scale, threshold),
    )


def _address(tensor: torch.Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _with_plain_features(value: torch.Tensor) -> torch.Tensor:
    """The kernel takes any strides but that of the last axis."""
    return value if value.stride(-1) == 1 else value.contiguous()


def _result(query: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    (batch, heads, length, _), width = query.shape, value.shape[-1]
    return query.new_empty_strided((batch, heads, length, width), (length * heads * width, width, heads * width, 1))


def _packed_result(query: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    return query.new_empty((*query.shape[:2], value.shape[-1]))


define(
    "attention_native(Tensor query, Tensor key, Tensor value, Tensor? attn_mask, bool is_causal, float? scale)"
    " -> Tensor",
    attention_native,
    lambda query, key, value, *_: _result(query, value),
    key="CPU",
)
define(
    "window_attention_native(Tensor query, Tensor key, Tensor value, Tensor first, Tensor end, int sinks, "
    "float? scale) -> Tensor",
    window_attention_native,
    lambda query, key, value, *_: _result(query, value),
    key="CPU",
)
define(
    "threshold_attention_native(Tensor query, Tensor key, Tensor value, Tensor? attn_mask, bool is_causal, "
    "float? scale, float threshold) -> Tensor",
    threshold_attention_native,
    lambda query, key, value, *_: _result(query, value),
    key="CPU",
)
define(
    "ragged_attention_native(Tensor query, Tensor key, Tensor value, Tensor row, Tensor position, Tensor lengths, "
    "Tensor? attn_mask, bool is_causal, float? scale) -> Tensor",
    ragged_attention_native,
    lambda query, key, value, *_: _packed_result(query, value),
    key="CPU",
)
