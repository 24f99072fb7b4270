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

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch.fx import Node

from txgraph.ir import Graph, GraphBuilder, arguments, provenance_of, same_size, type_of
from txgraph.rewrite import LossyContext, LossyPass, PassContext, Place, Rewrite, replace

_dense = torch.ops.aten.scaled_dot_product_attention.default
_windows = torch.ops.txgraph.window_attention.default
_FEWEST = 4  # times the window: below it there is little to save


@dataclass(frozen=True, kw_only=True)
class WindowAttention(LossyPass):
    """Attention to the last keys, and to the first ones.

    Attributes:
        window: how many keys a query sees at most, on each side: itself and those before it, or behind it.
        sinks: how many of the first keys all queries see.
        modules: only attention in modules whose names are like this, as in ``"*.layers.3.*"``.

    Raises:
        ValueError: ``window`` is not positive, or ``sinks`` is negative.
    """

    by_shape = True

    window: int
    sinks: int = 4
    modules: str = "*"

    def __post_init__(self) -> None:
        if self.window < 1 or self.sinks < 0:
            raise ValueError(
                f"WindowAttention: window={self.window!r} and sinks={self.sinks!r}, expected 1 and 0 at least"
            )

    @property
    def label(self) -> str:
        return f"attention to {self.window} keys"

    def places(self, graph: Graph, lossy: LossyContext) -> Mapping[str, Place]:
        """Attentions, by their modules: they have no weights of their own."""
        return {node.name: place for node, place in self._found(graph)}

    def shape_of(self, graph: Graph, root: Node) -> str:
        named = arguments(root)
        sizes = [str(type_of(named[each])) for each in ("query", "key", "value")]
        return f"{sizes} {named.get('is_causal')} {named['enable_gqa']}"

    def run(self, graph: Graph, context: PassContext) -> list[Rewrite]:
        lossy = context.lossy or LossyContext()
        rewrites = []
        for node, place in self._found(graph):
            if lossy.permits(self, place) and context.permits(self, node):
                lossy.prepared[self, place] = {}
                rewrites.append(self._rewrite(graph, node))
        return rewrites

    def _found(self, graph: Graph) -> Iterator[tuple[Node, Place]]:
        counts: Counter[str] = Counter()
        for node in graph.calls():
            if node.target not in (_dense, _windows):
                continue
            module = provenance_of(node).module
            counts[module] += 1  # also of those that stay: they may not do so in another graph
            if self._can_be_narrower(node) and fnmatchcase(module, self.modules):
                yield node, (hashlib.sha256(f"attention {counts[module]} of {module}".encode()).hexdigest(),)

    def _can_be_narrower(self, node: Node) -> bool:
        named = arguments(node)
        query, key = (named[each].meta["val"] for each in ("query", "key"))
        if query.ndim != 4 or query.dtype is not torch.float32 or query.device.type != "cpu":
            return False
        if named.get("attn_mask") is not None or named.get("dropout_p"):
            return False
        keys = key.shape[2]
        known = keys if isinstance(keys, int) else int(keys.node.hint)
        return same_size(query.shape[2], keys) and known >= _FEWEST * (self.window + self.sinks)

    def _rewrite(self, graph: Graph, node: Node) -> Rewrite:
        named = arguments(node)
        query = named["query"]
        g = GraphBuilder(graph, node, made_by=self.name)
        options = {"dtype": torch.int64, "device": query.meta["val"].device, "pin_memory": False}
        index = g.aten.arange.default(g.size(query, 2), **options)
        first, sinks = g.aten.add.Tensor(index, 1 - self.window), self.sinks
        end = g.aten.add.Tensor(index, 1 if named.get("is_causal") else self.window)
        if node.target is _windows:
            first, sinks = g.aten.maximum.default(first, named["first"]), min(sinks, named["sinks"])
            end = g.aten.minimum.default(end, named["end"])
        operands = (named[each] for each in ("query", "key", "value"))
        new = g.txgraph.window_attention(*operands, first, end, sinks, named["scale"], named["enable_gqa"])
        return replace(self.name, {node: new}, g.made)
