"""Operators on packed tokens: the valid positions of a padded batch, as rows of one tensor.

A value ``[B, S, ...]`` packs to ``[N, ...]``, where N counts the valid positions. Sequences are ordered by their
length, so that those of equal length lie side by side and share one attention kernel.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
import torch.nn.functional as F

from txgraph.ir.ops import define


def token_index(valid: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Where the valid positions of a padded batch are.

    Args:
        valid: boolean ``[B, S]``.

    Returns:
        ``row`` and ``position`` of each packed token, ``[N]``; the ``lengths`` of the sequences in packed order,
        ``[B]``; the packed places of the ``first`` and the ``last`` token of each row, ``[B]`` in the batch's own
        order (of a row without any, a place of another). All int64.
    """
    counts = valid.sum(1)
    order = counts.argsort(stable=True)
    place, position = valid[order].nonzero().unbind(1)
    lengths = counts[order]
    last = torch.empty_like(counts).index_copy_(0, order, lengths.cumsum(0) - 1)
    most = max(len(place) - 1, 0)
    return order[place], position.clone(), lengths, (last - counts + 1).clamp(0, most), last.clamp(0, most)


def _token_index_type(valid: torch.Tensor) -> tuple[torch.Tensor, ...]:
    tokens = torch.library.get_ctx().new_dynamic_size()
    tokens_and_rows = [[tokens]] * 2 + [[valid.shape[0]]] * 3
    return tuple(valid.new_empty(size, dtype=torch.int64) for size in tokens_and_rows)


define(
    "token_index(Tensor valid) -> (Tensor row, Tensor position, Tensor lengths, Tensor first, Tensor last)",
    token_index,
    _token_index_type,
)


def is_left_aligned(valid: torch.Tensor) -> torch.Tensor:
    """Whether the valid positions of each row come before the others.

    Args:
        valid: boolean ``[B, S]``.

    Returns:
        a boolean ``[]``.
    """
    return (valid[:, 1:] <= valid[:, :-1]).all()


define("is_left_aligned(Tensor valid) -> Tensor", is_left_aligned, lambda valid: valid.new_empty(()))


def ragged_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    row: torch.Tensor,
    position: torch.Tensor,
    lengths: torch.Tensor,
    attn_mask: torch.Tensor | None,
    is_causal: bool,
    scale: float | None,
    enable_gqa: bool,
) -> torch.Tensor:
    """Attention within each sequence of a packed batch; see :func:`torch.nn.functional.scaled_dot_product_attention`.

    Args:
        query: ``[N, H, D]``. key: ``[N, G, D]``. value: ``[N, G, Dv]``; ``G`` is ``H``, or with ``enable_gqa`` divides
            it.
        row, position, lengths: of :func:`token_index`.
        attn_mask: as for the padded batch, broadcasts to ``[B, H, S, S]``: of each sequence only the rows and columns
            of its valid positions are read.

    Returns:
        ``[N, H, Dv]`` in the dtype of ``query``.
    """
    result = query.new_empty((*query.shape[:2], value.shape[-1]))
    if attn_mask is not None:
        attn_mask = attn_mask[(None,) * (4 - attn_mask.ndim)]
    for tokens, count, length in _groups(lengths):
        q, k, v = (t[tokens].unflatten(0, (count, length)).transpose(1, 2) for t in (query, key, value))
        mask = None
        if attn_mask is not None:
            rows, places = row[tokens][::length], position[tokens].view(count, length)
            mask = _mask_of(attn_mask, rows, places)
        out = F.scaled_dot_product_attention(q, k, v, mask, 0.0, is_causal, scale=scale, enable_gqa=enable_gqa)
        result[tokens].unflatten(0, (count, length)).copy_(out.transpose(1, 2))
    return result


def _groups(lengths: torch.Tensor) -> Iterator[tuple[slice, int, int]]:
    """Of each group of sequences of equal length: its tokens, how many sequences, and their length."""
    start = 0
    for length, group in itertools.groupby(lengths.tolist()):
        count = len(list(group))
        if length:
            yield slice(start, start + count * length), count, length
        start += count * length


def _mask_of(mask: torch.Tensor, rows: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """``[G, H, L, L]``: a mask ``[B, H, S, S]``, any axis of which may be 1, at the given rows and positions."""
    wanted = {0: rows[:, None, None], 2: places[:, :, None], 3: places[:, None, :]}
    row, query, key = (index if mask.shape[axis] > 1 else torch.zeros_like(index) for axis, index in wanted.items())
    return mask.transpose(0, 1)[:, row, query, key].transpose(0, 1)


define(
    "ragged_attention(Tensor query, Tensor key, Tensor value, Tensor row, Tensor position, Tensor lengths, "
    "Tensor? attn_mask, bool is_causal, float? scale, bool enable_gqa) -> Tensor",
    ragged_attention,
    lambda query, key, value, *_: query.new_empty((*query.shape[:2], value.shape[-1])),
)
