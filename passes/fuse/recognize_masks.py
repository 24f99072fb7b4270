"""Recognise attention masks that are causal or let everything through, from how they are computed.

before:  scaled_dot_product_attention(q, k, v, mask)       mask: ``k <= q``, or true everywhere
after:   scaled_dot_product_attention(q, k, v, is_causal=True)      or without a mask
legal:   the mask's formula in its indices is proven from the data flow, for every input and size; a window that is
         wider than the sequence hides nothing beside. An additive mask counts as causal if it adds 0 where ``k <= q``
         and elsewhere -inf or the dtype's lowest number. The scale is positive where the mask is causal: torch's CPU
         kernel hides keys by -inf before it scales
pays:    the mask's B x H x S x T elements are neither made nor read; a causal kernel skips half of the products
source:  Vaswani et al. 2017, section 3.2.3; torch documentation of is_causal (top-left aligned)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.fx import Node

from txgraph.ir import Graph, GraphBuilder, arguments, type_of
from txgraph.ir.index_expressions import IndexExpressions
from txgraph.ir.masks import kind_of_mask, lowest
from txgraph.passes.fuse.attention_scores import may_lose_nan
from txgraph.rewrite import Pass, PassContext, Rewrite, replace

_attention = torch.ops.aten.scaled_dot_product_attention


@dataclass(frozen=True)
class RecognizeMasks(Pass):
    """Replace masks that are known for every input by the flag, or by nothing."""

    @property
    def pays(self) -> bool:
        return True

    def run(self, graph: Graph, context: PassContext) -> list[Rewrite]:
        expressions = IndexExpressions(graph)
        rewrites = []
        for node in graph.calls():
            named = arguments(node) if node.target is _attention.default else {}
            mask = named.get("attn_mask")
            if not isinstance(mask, Node) or named["is_causal"]:
                continue
            formula = expressions.of(mask)
            dtype = type_of(mask).dtype  # type: ignore[union-attr]  # a mask is a tensor
            sizes = tuple(type_of(named[each]).shape[-2] for each in ("query", "key"))  # type: ignore[union-attr]
            kind = kind_of_mask(formula, dtype, lowest(dtype), sizes)  # type: ignore[arg-type]  # two sizes
            scalable = named["scale"] is None or named["scale"] > 0
            if kind == "trivial" and _is_one_number(mask) and may_lose_nan(graph, type_of(named["key"]).shape[-2]):  # type: ignore[union-attr]
                context.decline(
                    self, node, "with few keys the kernel would lose the NaN of a query without a mask", mask
                )
            elif kind == "trivial" or (kind == "causal" and scalable):
                if context.permits(self, node):
                    rewrites.append(self._replace(graph, node, causal=kind == "causal"))
            elif kind == "causal":
                context.decline(self, node, "the scale is not positive")
            elif formula is None:
                context.decline(self, node, "the mask is not a function of its indices alone", mask)
            else:
                context.decline(self, node, f"the mask is neither causal nor trivial: {formula}", mask)
        if rewrites:
            graph.constants.observe(expressions.used)
        return rewrites

    def _replace(self, graph: Graph, node: Node, causal: bool) -> Rewrite:
        named = arguments(node)
        builder = GraphBuilder(graph, node, made_by=self.name)
        options = {k: named[k] for k in ("scale", "enable_gqa") if named[k] is not None and named[k] is not False}
        new = builder.aten.scaled_dot_product_attention(
            named["query"], named["key"], named["value"], None, named["dropout_p"], causal, **options
        )
        return replace(self.name, {node: new}, builder.made)


def _is_one_number(mask: Node) -> bool:
    return all(str(size) == "1" for size in type_of(mask).shape)  # type: ignore[union-attr]  # a tensor
