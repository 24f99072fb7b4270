"""Let query heads share the keys and values of their group, instead of repeating these for every head.

before:  scaled_dot_product_attention(q, repeat(k), repeat(v), mask)        q: [B, H, S, D]  k, v: [B, G, T, D]
         repeat: reshape(expand(unsqueeze(k, 2))), repeat_interleave(k, H / G, 1); expand or repeat of a single head
after:   reshape(scaled_dot_product_attention(rows, k, v, mask), [B, H, S, D])         rows: [B, G, H / G * S, D] of q
         or, where queries have masks of their own, scaled_dot_product_attention(q, k, v, mask, enable_gqa=True)
legal:   the first H / G query heads have the first head of k and v, and so on. Queries become rows where the mask is
         one for all of them: none, [..., 1, T], or of a single query; a causal one is not. On CPUs only: elsewhere it
         was not measured
pays:    B H T D elements less to write and to read for each of k and v; as rows, each key is read once for its group:
         with one query over 1024 keys, 32 heads of 64 over 8, 2.4 times faster in float32 and 9 in bfloat16
source:  Shazeer 2019 (one head of keys); Ainslie et al. 2023 (groups); torch documentation of enable_gqa
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Node

from txgraph.ir import GraphBuilder, TensorType, packet_of, same_size, type_of
from txgraph.rewrite import Accept, Match, Pattern, PatternFactory, Reject, RewritePass

_aten = torch.ops.aten
_HEADS = 1  # the axis


@dataclass(frozen=True)
class GroupQueryHeads(RewritePass):
    """Attention of H query heads over G heads of keys, without copies of the keys."""

    def pattern(self, p: PatternFactory) -> Pattern:
        q, mask, causal = p.any("q"), p.any("mask"), p.any("causal")
        options = {"scale": p.any("scale"), "enable_gqa": p.any("grouped")}
        repeated = (_repeat(p, "k"), _repeat(p, "v"))
        as_given = (p.any("k"), p.any("v"))
        return p.either(
            p.aten.scaled_dot_product_attention(q, *repeated, mask, 0.0, causal, **options),
            p.aten.scaled_dot_product_attention(q, *as_given, mask, 0.0, causal, **options),
        )

    def check(self, match: Match) -> Accept | Reject:
        q, k, v = (match.type(name) for name in "qkv")
        if match.context.target.kind != "cpu":
            return Reject(f"it was not measured on {match.context.target}", match.root)
        if not q.rank == k.rank == v.rank == 4 or not same_size(q.shape[0], k.shape[0]):
            return Reject(f"query is {q}, key {k}: expected [B, H, S, D] and [B, G, T, D]", match.root)
        heads, groups, of_values = (x.shape[_HEADS] for x in (q, k, v))
        if not isinstance(groups, int) or not groups or same_size(heads, groups) or not same_size(of_values, groups):
            return Reject(f"{heads} heads of queries, {groups} of keys, {of_values} of values", match.root)
        for name in ("k", "v"):
            copy = match.get(f"{name}_copy")
            if copy is not None and not _repeats_in_groups(match.type(name), copy, match.get(f"{name}_axis")):
                return Reject(f"{type_of(copy)} does not repeat each head of {match.type(name)}", copy)
        if "k_copy" not in match.bound and not _can_be_rows(match):
            return Reject("the keys are shared already, and each query has a mask of its own", match.root)
        return Accept()

    def gain(self, match: Match, made: Sequence[Node]) -> float | None:
        return None if _can_be_rows(match) else match.seconds_saved(made)  # rows always were faster: docs/passes.md

    def rewrite(self, match: Match, g: GraphBuilder) -> Node:
        q, k, v, mask, scale = (match[name] for name in ("q", "k", "v", "mask", "scale"))
        attend = g.aten.scaled_dot_product_attention
        if not _can_be_rows(match):
            return attend(q, k, v, mask, 0.0, match["causal"], scale=scale, enable_gqa=True)
        batch, heads, queries, _ = (g.size(q, axis) for axis in range(4))
        groups, features = match.type("k").shape[_HEADS], match.type("q").shape[-1]
        rows = -1
        if isinstance(heads, int) and isinstance(queries, int):  # of no rows -1 would be ambiguous
            rows = heads // groups * queries
        attention = attend(g.aten.reshape(q, [batch, groups, rows, features]), k, v, mask, scale=scale)
        return g.aten.reshape(attention, [batch, heads, queries, match.type("v").shape[-1]])


def _repeat(p: PatternFactory, name: str) -> Pattern:
    """The heads of ``name``, repeated: bound to ``name_copy``."""
    x, copy, axis = p.any(name), f"{name}_copy", p.any(f"{name}_axis")
    expanded = p.aten.expand(p.aten.unsqueeze(x, axis), p.any())
    contiguous = p.optional(lambda e: p.aten.clone(e, memory_format=p.any()), expanded)
    return p.either(
        p.aten.reshape(contiguous, p.any(), name=copy),
        p.aten.repeat_interleave(x, p.number(), axis, name=copy),
        p.aten.expand(x, p.any(), name=copy),
        p.aten.repeat(x, p.any(), name=copy),
    )


def _repeats_in_groups(x: TensorType, copy: Node, axis: Any) -> bool:
    """Whether the heads of ``copy`` are those of ``x``: each several times, one after the other."""
    groups, repeated = x.shape[_HEADS], type_of(copy)
    assert repeated is not None, "a tensor"
    if repeated.rank != 4 or not _same_but_heads(x.shape, repeated.shape):
        return False
    if packet_of(copy) is _aten.reshape:
        expanded = type_of(copy.args[0])
        assert expanded is not None, "a tensor"
        inner = (*expanded.shape[:2], *expanded.shape[3:])
        return axis % 5 == _HEADS + 1 and len(inner) == 4 and all(map(same_size, inner, x.shape))
    return axis % 4 == _HEADS if axis is not None else groups == 1


def _same_but_heads(a: Sequence[int | torch.SymInt], b: Sequence[int | torch.SymInt]) -> bool:
    return all(same_size(x, y) for at, (x, y) in enumerate(zip(a, b, strict=True)) if at != _HEADS)


def _can_be_rows(match: Match) -> bool:
    """Whether all queries of all heads have one mask."""
    mask = type_of(match["mask"])
    if match["causal"] or mask is None:
        return not match["causal"]
    one_query = same_size(match.type("q").shape[-2], 1)
    if mask.rank < 2 or not (one_query or same_size(mask.shape[-2], 1)):
        return False
    return mask.rank < 3 or same_size(mask.shape[-3], 1)
