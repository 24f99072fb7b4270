"""Operators on packed tokens: the valid positions of a padded batch, as rows of one tensor.

A value ``[B, S, ...]`` packs to ``[N, ...]``, where N counts the valid positions. Sequences are ordered by their
length, so that those of about equal length lie side by side and share one attention kernel.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

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
    mask = None if attn_mask is None else attn_mask[(None,) * (4 - attn_mask.ndim)]
    sizes: dict[str, Any] = {"scale": scale, "enable_gqa": enable_gqa}
    for start, group in _groups(lengths.tolist()):
        count, longest, total = len(group), group[-1], sum(group)
        tokens = slice(start, start + total)
        if group[0] == longest:  # no padding: views of the packed tokens
            q, k, v = (t[tokens].unflatten(0, (count, longest)).transpose(1, 2) for t in (query, key, value))
            places = position[tokens].view(count, longest)
            own = None if mask is None else _mask_of(mask, row[tokens][::longest], places)
            out = F.scaled_dot_product_attention(q, k, v, own, 0.0, is_causal, **sizes)
            result[tokens].unflatten(0, (count, longest)).copy_(out.transpose(1, 2))
            continue
        at, valid = _padded_places(group, start, query.device)
        q, k, v = (t[at].transpose(1, 2) for t in (query, key, value))
        seen = valid[:, None, None]
        if is_causal:
            seen = seen & torch.ones(longest, longest, dtype=torch.bool, device=seen.device).tril()
        if mask is not None:
            own = _mask_of(mask, row[at[:, 0]], position[at])
            seen = own & seen if own.dtype is torch.bool else own.masked_fill(~seen, -math.inf)
        out = F.scaled_dot_product_attention(q, k, v, seen, 0.0, **sizes)
        result[tokens] = out.transpose(1, 2)[valid]
    return result


_SPREAD, _SLACK = 1.25, 2  # sequences share a kernel, padded to the longest, if it is no longer than this


def _groups(lengths: Sequence[int]) -> Iterator[tuple[int, list[int]]]:
    """Sequences of about equal length, which one kernel computes: the first token, and their lengths, ascending."""
    start, group = 0, list[int]()
    for length in lengths:
        if group and length > group[0] * _SPREAD + _SLACK:
            yield start, group
            start, group = start + sum(group), []
        if length:
            group.append(length)
    if group:
        yield start, group


def _padded_places(group: Sequence[int], start: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """``[G, L]``: where each token of a group is among the packed ones, and which places are tokens at all."""
    lengths = torch.tensor(group, device=device)
    steps = torch.arange(group[-1], device=device)
    begins = start + lengths.cumsum(0) - lengths
    valid = steps < lengths[:, None]
    return begins[:, None] + torch.minimum(steps, lengths[:, None] - 1), valid


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
