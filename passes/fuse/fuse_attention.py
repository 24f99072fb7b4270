"""Recover attention from its decomposed form.

before:  matmul(softmax(steps(matmul(q, transpose(k))), -1), v)     steps: * scale, + mask, masked_fill, tanh, reshape
after:   scaled_dot_product_attention(q, k, v, mask, scale=scale)   q: [B, H, S, D]  k, v: [B, H, T, D]
         txgraph::softcap_attention(q, k, v, mask, scale, cap)      of scores cap * tanh(product * scale / cap)
legal:   softmax over the keys, in the dtype of the scores (a float32 island in a 16-bit model stays); the weights
         are not used elsewhere; the steps are ``product * scale + mask`` with finite numbers; masks have the scores'
         dtype and do not enlarge them. A row without any key, NaN in eager, is 0 in the fused operator: where the
         mask is not proven to leave every row a key, such rows are made NaN. A key that is NaN or infinite and hidden
         by a fill stays hidden in eager; torch's kernels add -inf to its score instead
pays:    the S x T scores are not written to memory: 4 B H S T elements less to read and write
source:  Vaswani et al. 2017, equation 1; Dao et al. 2022
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.fx import Node

from txgraph.ir import DTYPE_NAMES, GraphBuilder, arguments, packet_of, same_size, type_of
from txgraph.ir.bounds import ValueBounds
from txgraph.ir.index_expressions import IndexExpressions
from txgraph.passes.fuse.attention_scores import (
    LARGEST_SCORE,
    MaskBuilder,
    chain_of_steps,
    check_cap,
    check_steps,
    may_hide_a_row,
    may_lose_nan,
    scale_of,
    split_at_cap,
)
from txgraph.rewrite import Accept, Match, Pattern, PatternFactory, Reject, RewritePass

_aten = torch.ops.aten


@dataclass(frozen=True)
class FuseAttention(RewritePass):
    """One operator for scores, mask, softmax and weighted sum."""

    def pattern(self, p: PatternFactory) -> Pattern:
        product = p.aten.matmul(p.any("q"), p.any("kt"), name="product")
        scores = chain_of_steps(p, product)
        weights = p.either(
            p.aten.softmax(scores, p.any("over"), p.any("dtype"), name="weights"),
            p.aten._safe_softmax(scores, p.any("over"), p.any("dtype"), name="weights"),
        )
        cast = p.optional(lambda w: p.aten._to_copy(w, dtype=p.any("back")), weights)
        return p.aten.matmul(p.optional(lambda w: p.aten.reshape(w, p.any(), name="joins"), cast), p.any("v"))

    def check(self, match: Match) -> Accept | Reject:
        q, kt, v, weights, steps = match.type("q"), match.type("kt"), match.type("v"), match["weights"], match["steps"]
        if not q.rank == kt.rank == v.rank or q.rank < 3:
            return Reject(f"query is {q}, key {kt}, value {v}: expected the same rank, 3 or more", match.root)
        scores, masked = match.type("product"), match.type("weights")
        if not _keeps_shape(match):
            return Reject(f"a mask or a reshape turns the scores from {scores} into {masked}", weights)
        if match["over"] % masked.rank != masked.rank - 1:
            return Reject("the softmax is not over the keys", weights)
        if not q.dtype == kt.dtype == v.dtype == masked.dtype:
            inner, *outer = (DTYPE_NAMES.get(t.dtype, str(t.dtype)) for t in (masked, q, kt, v))
            found = "{}, {} and {}".format(*outer)
            return Reject(f"the softmax is computed in {inner}, query, key and value are {found}", weights)
        outside, _ = split_at_cap(steps)
        refused = check_cap(steps) or check_steps(outside, q.dtype, ValueBounds(match.graph, LARGEST_SCORE))
        return refused or Accept()

    def gain(self, match: Match, made: Sequence[Node]) -> float | None:
        return match.seconds_saved([n for n in made if n.target is not _aten.reshape.default])  # they will meet others

    def rewrite(self, match: Match, g: GraphBuilder) -> Node:
        q, q_factor = _unscaled(match["q"])
        k, k_factor = _unscaled(_transposed(match["kt"], g))
        outside, inside = split_at_cap(match["steps"])
        reshapes = _reshapes(match)
        masks = MaskBuilder(g, match.type("q").dtype)
        masks.take(outside)
        mask, v = masks.mask, match["v"]
        if reshapes:
            q, k, v = (_split_heads(x, reshapes[0], at, g) for x, at in ((q, -2), (k, -1), (v, -1)))
        few_axes = match.type("q").rank == 3 and not reshapes  # then torch takes another kernel
        if mask is None and inside is None and not few_axes and may_lose_nan(match.graph, match.type("kt").shape[-1]):
            mask = g.aten.zeros.default([1, 1], dtype=match.type("q").dtype, device=match.type("q").device)
        scale = scale_of(outside) * scale_of(inside or ()) * q_factor * k_factor
        if inside is None:
            attention = g.aten.scaled_dot_product_attention(q, k, v, mask, scale=scale)
        else:
            attention = g.txgraph.softcap_attention(q, k, v, mask, scale, scale_of(outside))
        no_keys = same_size(match.type("kt").shape[-1], 0)  # then eager adds up nothing, and gives 0
        if mask is not None and not no_keys and packet_of(match["weights"]) is _aten.softmax:
            bounds, formulas = ValueBounds(match.graph, LARGEST_SCORE), IndexExpressions(match.graph)
            if may_hide_a_row(match.graph, mask, bounds, formulas):
                attention = _nan_where_nothing_is_seen(attention, mask, g)
        if reshapes:
            rows = arguments(reshapes[-1])["shape"][:2]
            return g.aten.reshape.default(attention, [*rows, match.type("v").shape[-1]])
        return attention


def _reshapes(match: Match) -> list[Node]:
    """The changes of shape between the two products, in their order."""
    steps = [step.node for step in reversed(match["steps"]) if step.kind == "reshape"]
    return [*steps, match["joins"]] if "joins" in match.bound else steps


def _keeps_shape(match: Match) -> bool:
    """Whether no mask enlarges the scores, and their first axis is split by a reshape only to be joined again."""
    scores, reshapes = match.type("product"), _reshapes(match)
    shapes = {scores.rank: scores.shape}
    if reshapes:
        split, *joined = (type_of(node).shape for node in reshapes)  # type: ignore[union-attr]  # tensors
        heads = (match.type("q").shape[-1], match.type("v").shape[-1])
        if (scores.rank, len(split), len(joined)) != (3, 4, 1) or not all(isinstance(size, int) for size in heads):
            return False
        if not _same_sizes(split[-2:], scores.shape[-2:]) or not _same_sizes(joined[0], scores.shape):
            return False
        shapes[4] = split
    nodes = [step.node for step in match["steps"] if step.kind != "reshape"] + [match["weights"]]
    found = [type_of(node).shape for node in nodes]  # type: ignore[union-attr]  # tensors
    return all(_same_sizes(shape, shapes.get(len(shape), ())) for shape in found)


def _same_sizes(a: Sequence[int | torch.SymInt], b: Sequence[int | torch.SymInt]) -> bool:
    return len(a) == len(b) and all(map(same_size, a, b))


def _transposed(kt: Node, g: GraphBuilder) -> Node:
    """The key: [..., T, D] of [..., D, T]."""
    rank = type_of(kt).rank  # type: ignore[union-attr]  # a tensor
    if kt.target is _aten.transpose.int:
        named = arguments(kt)
        if {named["dim0"] % rank, named["dim1"] % rank} == {rank - 2, rank - 1}:
            return named["self"]  # type: ignore[no-any-return]  # schema: a tensor
    return g.aten.transpose.int(kt, rank - 2, rank - 1)


def _unscaled(x: Node) -> tuple[Node, float]:
    """``x`` without the numbers that it is multiplied by, and these."""
    factor = 1.0
    while x.target is _aten.mul.Tensor and isinstance(x.args[1], int | float) and math.isfinite(x.args[1]):
        factor *= x.args[1]
        x = x.args[0]  # type: ignore[assignment]  # schema: a tensor
    return x, factor


def _split_heads(x: Node, scores: Node, length: int, g: GraphBuilder) -> Node:
    """[N, S, D] as [B, H, S, D], where ``scores`` is a reshape to [B, H, S, T] and ``length`` tells S from T."""
    x_type, split_type = type_of(x), type_of(scores)
    assert x_type is not None, "a tensor"
    assert split_type is not None, "a tensor"
    source_type = type_of(x.args[0]) if x.target is _aten.reshape.default else None
    wanted = (*split_type.shape[:-2], *x_type.shape[-2:])
    if source_type is not None and _same_sizes(source_type.shape, wanted):
        return x.args[0]  # type: ignore[return-value]  # it was joined from just that
    shape = arguments(scores)["shape"]
    return g.aten.reshape.default(x, [*shape[:-2], shape[length], x_type.shape[-1]])


def _nan_where_nothing_is_seen(attention: Node, mask: Node, g: GraphBuilder) -> Node:
    boolean = type_of(mask).dtype is torch.bool  # type: ignore[union-attr]  # a tensor
    visible = mask if boolean else g.aten.gt.Scalar(mask, -math.inf)
    blind = g.aten.logical_not.default(g.aten.any.dim(visible, -1, True))
    return g.aten.masked_fill.Scalar(attention, blind, math.nan)
