"""Faults in what makes attention one operator: scores, masks, heads."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.fx import Node

from tests.mutants.edits import after, always, given, inside, numbers
from tests.mutants.mutant import Fault, Inputs, Mutant, Probe
from tests.small import module
from txgraph.ir import Graph, GraphBuilder
from txgraph.passes.fuse import (
    fuse_attention,
    group_query_heads,
    merge_attention_heads,
    recognize_masks,
    recognize_windows,
)
from txgraph.passes.fuse.attention_scores import MaskBuilder
from txgraph.passes.fuse.fuse_attention import FuseAttention
from txgraph.passes.fuse.fuse_softmax import FuseSoftmax
from txgraph.passes.fuse.merge_attention_heads import MergeAttentionHeads
from txgraph.passes.fuse.recognize_masks import RecognizeMasks
from txgraph.passes.layout.add_head_axis import AddHeadAxis
from txgraph.rewrite import Accept, Match, Rewrite
from txgraph.rewrite.pattern import Step

Tensor = torch.Tensor
_ATTENTION = "scaled_dot_product_attention"


def _probe(name: str, function: Callable[..., Any], *shapes: tuple[int, ...], **others: Tensor) -> Probe:
    """A function of q, k, v and others."""

    def inputs() -> Inputs:
        return {**dict(zip(("q", "k", "v"), numbers(*shapes), strict=False)), **others}

    def model() -> nn.Module:
        return module(function)

    return Probe(name, model, inputs)


def _masked(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    return torch.softmax(q @ k.transpose(-2, -1) * 0.5 + mask, -1) @ v


def _scaled_after_mask(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    return torch.softmax((q @ k.transpose(-2, -1) + mask) * 0.5, -1) @ v


def _filled(q: Tensor, k: Tensor, v: Tensor, hidden: Tensor) -> Tensor:
    return torch.softmax((q @ k.transpose(-2, -1)).masked_fill(hidden, -math.inf), -1) @ v


def _scaled_query(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.softmax((q * 0.3) @ k.transpose(-2, -1), -1) @ v


def _transposed_keys(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.softmax(q @ k, -1) @ v


def _capped(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.softmax(torch.tanh(q @ k.transpose(-2, -1) * 0.25) * 2.0, -1) @ v


def _causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    at = torch.arange(16)
    return F.scaled_dot_product_attention(q, k, v, at[:, None] >= at, scale=0.7)


def _window(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    at = torch.arange(16)
    visible = (at[:, None] >= at) & (at[:, None] < at + 4)
    return F.scaled_dot_product_attention(q, k, v, visible)


def _chunks(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    at = torch.arange(16) // 5
    return F.scaled_dot_product_attention(q, k, v, at[:, None] == at)


def _earlier(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The first query sees no key: all its scores are the lowest number, and all keys count alike."""
    at = torch.arange(16)
    hidden = torch.where(at[:, None] > at, 0.0, torch.finfo(torch.float32).min)
    return F.scaled_dot_product_attention(q, k, v, hidden)


def _heads(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    heads = zip(*(x.chunk(2, -1) for x in (q, k, v)), strict=True)
    return torch.cat([F.scaled_dot_product_attention(*head, mask) for head in heads], -1)


def _tiled_keys(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k.repeat(1, 2, 1, 1), v.repeat(1, 2, 1, 1))


def _causal_groups(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k.repeat_interleave(2, 1), v.repeat_interleave(2, 1), is_causal=True)


def _no_heads(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, scale=0.7)


def _softmax(q: Tensor) -> Tensor:
    e = torch.exp(q - q.amax(-1, keepdim=True))
    return e / e.sum(-1, keepdim=True)


def _mixed_softmax(q: Tensor) -> Tensor:
    e = torch.exp(q - q.amax(-1, keepdim=True))
    return e / e.sum(0, keepdim=True)


def _hidden(whole_row: bool) -> Tensor:
    """Of [2, 1, 16, 16]: the last keys of the first; of one query all, if wanted."""
    hidden = torch.zeros(2, 1, 16, 16, dtype=torch.bool)
    hidden[0, :, :, 10:] = True
    hidden[1, :, 3] = whole_row
    return hidden


_QKV = ((2, 2, 16, 8),) * 3
(_ADDED,) = numbers((2, 1, 16, 16))
MASKED = _probe("attention with a mask", _masked, *_QKV, mask=_ADDED)
SCALED_AFTER_MASK = _probe("attention scaled after its mask", _scaled_after_mask, *_QKV, mask=_ADDED)
FILLED = _probe("attention with hidden keys", _filled, *_QKV, hidden=_hidden(False))
BLIND = _probe("attention with a query that sees nothing", _filled, *_QKV, hidden=_hidden(True))
SCALED_QUERY = _probe("attention of a scaled query", _scaled_query, *_QKV)
TRANSPOSED_KEYS = _probe("attention over keys [D, T], D = T", _transposed_keys, *((2, 2, 16, 16),) * 3)
CAPPED = _probe("attention with capped scores", _capped, *_QKV)
CAUSAL = _probe("attention with a causal mask", _causal, *_QKV)
WINDOW = _probe("attention with a sliding window", _window, *_QKV)
CHUNKS = _probe("attention within chunks", _chunks, *_QKV)
EARLIER = _probe("attention to what is earlier, by an added mask", _earlier, *_QKV)
HEADS = _probe("heads computed one by one", _heads, *((2, 16, 16),) * 3, mask=_ADDED[0, 0])
TILED_KEYS = _probe("keys tiled over heads", _tiled_keys, (2, 4, 16, 8), *((2, 2, 16, 8),) * 2)
CAUSAL_GROUPS = _probe("causal attention over shared keys", _causal_groups, (2, 4, 16, 8), *((2, 2, 16, 8),) * 2)
NO_HEADS = _probe("attention without an axis of heads", _no_heads, *((2, 16, 8),) * 3)
SOFTMAX = _probe("softmax by its formula", _softmax, (8, 8))
MIXED_SOFTMAX = _probe("maximum and sum over different axes", _mixed_softmax, (8, 8))


def _mask_forgotten(original: Any, self: MaskBuilder, steps: list[Step]) -> None:
    original(self, steps)
    self.mask = None


def _visible_filled(original: Any, self: MaskBuilder, hidden: Node, value: float) -> None:
    original(self, self.g.aten.logical_not.default(hidden), value)


def _mask_not_scaled(original: Any, self: MaskBuilder, step: Step) -> None:
    if step.kind not in ("scale", "divide"):
        original(self, step)


def _query_and_key_swapped(attention: Node) -> None:
    given(attention, query=attention.args[1], key=attention.args[0])


def _rows_with_keys_made_nan(original: Any, attention: Node, mask: Node, g: GraphBuilder) -> Node:
    return g.aten.masked_fill.Scalar(attention, g.aten.any.dim(mask, -1, True), math.nan)


def _features_in_turn(original: Any, pieces: list[Node], g: GraphBuilder) -> Node:
    """[B, S, D, H] as [B, H, S, D]."""
    heads = original(pieces, g).args[0]
    batch, tokens, count, size = heads.args[1]
    return g.aten.permute.default(given(heads, shape=[batch, tokens, size, count]), [0, 3, 1, 2])


def _cap_for_scale(attention: Node) -> None:
    given(attention, scale=attention.args[5], cap=attention.args[4])


def _scale_forgotten(original: Any, self: RecognizeMasks, graph: Graph, node: Node, causal: bool) -> Rewrite:
    record: Rewrite = original(self, graph, given(node, scale=None), causal)
    return record


def _softmax_over_first_axis(original: Any, self: FuseSoftmax, match: Match, g: GraphBuilder) -> Node:
    return g.aten.softmax.int(match["x"], 0)


def _not_rounded(original: Any, bounds: Any, formula: Any) -> Node:
    """The query's own index, where it should be divided and rounded down."""
    index: Node = bounds._index
    return index


ATTENTION = (
    Mutant(
        "attention loses its mask",
        "the mask that the steps add up to is not handed to the fused operator",
        Fault(MaskBuilder, "take", _mask_forgotten),
        MASKED,
    ),
    Mutant(
        "attention scales wrongly",
        "the scale of the scores is squared",
        Fault(fuse_attention, "scale_of", after(lambda scale: scale**2)),
        MASKED,
    ),
    Mutant(
        "query and key swapped",
        "the fused operator gets the key as its query",
        Fault(FuseAttention, "rewrite", inside(_ATTENTION, _query_and_key_swapped)),
        MASKED,
    ),
    Mutant(
        "mask not scaled with the scores",
        "a factor after the mask is applied to the product alone",
        Fault(MaskBuilder, "_take", _mask_not_scaled),
        SCALED_AFTER_MASK,
    ),
    Mutant(
        "visible keys hidden",
        "masked_fill is taken to mark the keys that are seen",
        Fault(MaskBuilder, "_fill", _visible_filled),
        FILLED,
    ),
    Mutant(
        "blind rows are zero",
        "a query that sees no key gives 0 where eager gives NaN",
        Fault(fuse_attention, "may_hide_a_row", always(False)),
        BLIND,
    ),
    Mutant(
        "seeing rows are NaN",
        "the rows made NaN are those that see a key",
        Fault(fuse_attention, "_nan_where_nothing_is_seen", _rows_with_keys_made_nan),
        FILLED,
    ),
    Mutant(
        "scale of the query lost",
        "a factor taken off the query does not reach the scale",
        Fault(fuse_attention, "_unscaled", after(lambda found: (found[0], 1.0))),
        SCALED_QUERY,
    ),
    Mutant(
        "keys not transposed",
        "keys [D, T] are taken for [T, D], where D = T",
        Fault(fuse_attention, "_transposed", lambda original, kt, g: kt),
        TRANSPOSED_KEYS,
    ),
    Mutant(
        "cap and scale swapped",
        "softcap_attention gets its scale as the cap",
        Fault(FuseAttention, "rewrite", inside("txgraph::softcap_attention", _cap_for_scale)),
        CAPPED,
    ),
    Mutant(
        "causal flag for a window",
        "every mask with a known formula is taken for a causal one",
        Fault(recognize_masks, "kind_of_mask", lambda original, formula, *_: "causal" if formula is not None else ""),
        WINDOW,
    ),
    Mutant(
        "causal mask dropped",
        "a causal mask is taken for one that lets everything through",
        Fault(recognize_masks, "kind_of_mask", after(lambda kind: "trivial" if kind == "causal" else kind)),
        CAUSAL,
    ),
    Mutant(
        "windows without a start",
        "queries see all keys before the end of their windows",
        Fault(recognize_windows, "window_of_mask", after(lambda window: window and replace(window, first=frozenset()))),
        WINDOW,
    ),
    Mutant(
        "chunks begin at their queries",
        "where a window begins and ends is not rounded down to chunks",
        Fault(recognize_windows._Bounds, "_quotient", _not_rounded),
        CHUNKS,
    ),
    Mutant(
        "windows without keys",
        "a query whose keys all are hidden by a finite number gives 0",
        Fault(recognize_windows, "every_row_sees_a_key", always(True)),
        EARLIER,
    ),
    Mutant(
        "scale lost with the mask",
        "the attention that gets is_causal keeps no scale of its own",
        Fault(RecognizeMasks, "_replace", _scale_forgotten),
        CAUSAL,
    ),
    Mutant(
        "features of heads in turn",
        "the heads of a value are split as [D, H], not as [H, D]",
        Fault(merge_attention_heads, "_joined", _features_in_turn),
        HEADS,
    ),
    Mutant(
        "heads not moved before joining",
        "[B, H, S, D] is reshaped to [B, S, H D] without a transpose",
        Fault(
            MergeAttentionHeads,
            "rewrite",
            inside("reshape", lambda joined: given(joined, self=joined.args[0].args[0])),  # type: ignore[union-attr]
        ),
        HEADS,
    ),
    Mutant(
        "merged heads lose their mask",
        "the one attention for all heads gets a mask of zeros",
        Fault(merge_attention_heads, "_mask", lambda original, head, query, key, g: g.aten.new_zeros(query, [1, 1])),
        HEADS,
    ),
    Mutant(
        "tiled keys taken for grouped ones",
        "keys repeated as 0 1 0 1 are shared as if they were 0 0 1 1",
        Fault(group_query_heads, "_repeats_in_groups", always(True)),
        TILED_KEYS,
    ),
    Mutant(
        "causal heads as rows",
        "queries of a group become rows of one attention although each has a mask of its own",
        Fault(group_query_heads, "_can_be_rows", always(True)),
        CAUSAL_GROUPS,
    ),
    Mutant(
        "scale lost with the axis of heads",
        "attention that gets an axis of heads has the default scale",
        Fault(AddHeadAxis, "rewrite", inside(_ATTENTION, lambda attention: given(attention, scale=None))),
        NO_HEADS,
    ),
    Mutant(
        "softmax over another axis",
        "the fused softmax is over the first axis",
        Fault(FuseSoftmax, "rewrite", _softmax_over_first_axis),
        SOFTMAX,
    ),
    Mutant(
        "softmax accepts any sum",
        "the sum need not be over the axis of the maximum",
        Fault(FuseSoftmax, "check", always(Accept())),
        MIXED_SOFTMAX,
    ),
)
