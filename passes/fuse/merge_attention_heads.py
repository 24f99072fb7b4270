"""Compute attention heads that the model computes one by one in one operator.

before:  cat([scaled_dot_product_attention(q_i, k_i, v_i, mask) for each head], -1)      q_i: [B, S, D]  k_i: [B, T, D]
after:   reshape(transpose(scaled_dot_product_attention(q, k, v, mask), 1, 2), [B, S, H * D])            q: [B, H, S, D]
legal:   at least two heads of the same types, with one mask, scale and causality, no dropout and no grouped heads; the
         heads are not used elsewhere. Pieces of one value, in order and all of it, are a view of it; others are
         stacked. There always is a mask: without one, kernels for heads give 0 for a query with NaN, and with
         ``is_causal`` they skip the keys it hides, whose NaN eager adds up
pays:    one kernel for all heads, which need not write the S x T scores of each
source:  Vaswani et al. 2017, section 3.2.2; torch documentation of scaled_dot_product_attention
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Node

from txgraph.ir import GraphBuilder, arguments, type_of
from txgraph.rewrite import Accept, Match, Pattern, PatternFactory, Reject, RewritePass

_aten = torch.ops.aten
_SPLITS = (_aten.split.Tensor, _aten.split_with_sizes.default, _aten.chunk.default)


@dataclass(frozen=True)
class MergeAttentionHeads(RewritePass):
    """One attention for heads that are concatenated."""

    def pattern(self, p: PatternFactory) -> Pattern:
        return p.aten.cat(p.any("heads"), p.any("dim"))

    def check(self, match: Match) -> Accept | Reject:
        heads, out = match["heads"], type_of(match.root)
        assert out is not None, "schema: a tensor"
        for head in heads:
            if head.target is not _aten.scaled_dot_product_attention.default:
                return Reject(f"%{head.name} is not an attention", head)
            if len(head.users) > 1:
                return Reject(f"inner value %{head.name} is used elsewhere, too", head)
        if len(set(heads)) != len(heads) or len(heads) < 2:
            return Reject("it takes two heads or more, each once", match.root)
        first = arguments(heads[0])
        if out.rank != 3 or any(_type(first, name).rank != 3 for name in ("query", "key", "value")):
            return Reject(f"the heads are {type_of(heads[0])}, expected three axes", heads[0])
        if match["dim"] % out.rank != out.rank - 1:
            return Reject("the heads are not concatenated along the last axis", match.root)
        if first["dropout_p"] or first["enable_gqa"]:
            return Reject("the heads have dropout or groups", heads[0])
        mask = type_of(first["attn_mask"])
        if mask is not None and mask.rank not in (2, 3):
            return Reject(f"the mask is {mask}, expected two axes or three", heads[0])
        for head in heads[1:]:
            named = arguments(head)
            for name in ("query", "key", "value"):
                if _type(named, name) != _type(first, name):
                    return Reject(f"the heads have a {name} {_type(first, name)} and {_type(named, name)}", head)
            for name in ("attn_mask", "is_causal", "scale", "dropout_p", "enable_gqa"):
                if named[name] is not first[name] and (isinstance(named[name], Node) or named[name] != first[name]):
                    return Reject(f"the heads differ in {name}", head)
        return Accept()

    def gain(self, match: Match, made: Sequence[Node]) -> float | None:
        return match.seconds_saved(made) + match.context.cost.seconds(match["heads"])  # these are not of the pattern

    def rewrite(self, match: Match, g: GraphBuilder) -> Node:
        heads = [arguments(head) for head in match["heads"]]
        query, key, value = (_joined([h[name] for h in heads], g) for name in ("query", "key", "value"))
        mask = _mask(heads[0], query, key, g)
        attention = g.aten.scaled_dot_product_attention(query, key, value, mask, scale=heads[0]["scale"])
        batch, tokens = (g.size(query, axis) for axis in (0, 2))
        out = type_of(match.root)
        assert out is not None, "schema: a tensor"
        return g.aten.reshape(g.aten.transpose.int(attention, 1, 2), [batch, tokens, out.shape[-1]])


def _type(named: dict[str, Any], name: str) -> Any:
    return type_of(named[name])


def _joined(pieces: Sequence[Node], g: GraphBuilder) -> Node:
    """``[B, H, S, D]`` of the heads' ``[B, S, D]``."""
    source = _source(pieces)
    if source is None:
        return g.aten.stack(list(pieces), 1)
    batch, tokens = (g.size(source, axis) for axis in (0, 1))
    size = pieces[0].meta["val"].shape[-1]
    return g.aten.transpose.int(g.aten.reshape(source, [batch, tokens, len(pieces), size]), 1, 2)


def _source(pieces: Sequence[Node]) -> Node | None:
    """The value that the pieces make up along the last axis, in order."""
    size = pieces[0].meta["val"].shape[-1]
    origins = [_origin(piece) for piece in pieces]
    source = origins[0][0]
    if source is None or source.meta["val"].shape[-1] != len(pieces) * size:
        return None
    return source if origins == [(source, at * size) for at in range(len(pieces))] else None


def _origin(piece: Node) -> tuple[Node | None, int]:
    """The value that a node is a piece of along the last axis, and where the piece begins."""
    last = piece.meta["val"].ndim - 1
    if piece.target is operator.getitem:
        split, at = piece.args
        if isinstance(split, Node) and split.target in _SPLITS and arguments(split)["dim"] % (last + 1) == last:
            assert isinstance(at, int), "spec: an index"
            return split.all_input_nodes[0], sum(part.shape[-1] for part in split.meta["val"][:at])
    if piece.target is _aten.slice.Tensor:
        named = arguments(piece)
        if named["dim"] % (last + 1) == last and named["step"] == 1 and isinstance(named["start"] or 0, int):
            return named["self"], named["start"] or 0
    return None, 0


def _mask(head: dict[str, Any], query: Node, key: Node, g: GraphBuilder) -> Node:
    """The mask for all heads; where there is none, one that changes no score."""
    mask: Node | None = head["attn_mask"]
    if head["is_causal"]:
        sizes = [g.size(query, 2), g.size(key, 2)]
        return g.aten.tril(g.aten.new_ones(query, sizes, dtype=torch.bool))
    if mask is None:
        return g.aten.new_zeros(query, [1, 1])
    return mask if mask.meta["val"].ndim == 2 else g.aten.unsqueeze(mask, 1)
