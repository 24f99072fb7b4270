"""Limit attention to a window: each query sees the keys near it, and the first of all.

before:  scaled_dot_product_attention(q, k, v, is_causal=True), or without a mask; txgraph::window_attention(...)
after:   txgraph::window_attention(q, k, v, first, end, sinks)        causal: q - window < k <= q, and k < sinks;
         else: |q - k| < window, and k < sinks
legal:   lossy: under a budget only. Self-attention in float32 on CPUs without a mask of data
pays:    the products are with ``window`` keys in the place of all: where there are four times as many, and more
source:  Xiao et al. 2024 (StreamingLLM), section 3.2: a window alone breaks models that put what attention they do not
         need on the first tokens (sinks). Beltagy et al. 2020 (Longformer), section 3.1
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.fx import Node

from txgraph.ir import Graph, GraphBuilder, arguments, same_size, type_of
from txgraph.passes.sparsity.attention import WINDOWS, AttentionPass, keys_of

_FEWEST = 4  # times the window: below it there is little to save


@dataclass(frozen=True, kw_only=True)
class WindowAttention(AttentionPass):
    """Attention to the last keys, and to the first ones.

    Attributes:
        window: how many keys a query sees at most, on each side: itself and those before it, or behind it.
        sinks: how many of the first keys all queries see.

    Raises:
        ValueError: ``window`` is not positive, or ``sinks`` is negative.
    """

    by_shape = True

    window: int
    sinks: int = 4

    def __post_init__(self) -> None:
        if self.window < 1 or self.sinks < 0:
            raise ValueError(
                f"WindowAttention: window={self.window!r} and sinks={self.sinks!r}, expected 1 and 0 at least"
            )

    @property
    def label(self) -> str:
        return f"attention to {self.window} keys"

    def shape_of(self, graph: Graph, root: Node) -> str:
        named = arguments(root)
        sizes = [str(type_of(named[each])) for each in ("query", "key", "value")]
        return f"{sizes} {named.get('is_causal')} {named['enable_gqa']}"

    def fits(self, node: Node) -> bool:
        named = arguments(node)
        if named.get("attn_mask") is not None:
            return False
        queries, keys = (named[each].meta["val"].shape[2] for each in ("query", "key"))
        return same_size(queries, keys) and keys_of(node) >= _FEWEST * (self.window + self.sinks)

    def put(self, node: Node, g: GraphBuilder) -> Node:
        named = arguments(node)
        query = named["query"]
        options = {"dtype": torch.int64, "device": query.meta["val"].device, "pin_memory": False}
        index = g.aten.arange.default(g.size(query, 2), **options)
        first, sinks = g.aten.add.Tensor(index, 1 - self.window), self.sinks
        end = g.aten.add.Tensor(index, 1 if named.get("is_causal") else self.window)
        if node.target is WINDOWS:
            first, sinks = g.aten.maximum.default(first, named["first"]), min(sinks, named["sinks"])
            end = g.aten.minimum.default(end, named["end"])
        operands = (named[each] for each in ("query", "key", "value"))
        return g.txgraph.window_attention(*operands, first, end, sinks, named["scale"], named["enable_gqa"])
