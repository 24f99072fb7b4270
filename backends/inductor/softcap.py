"""How ``txgraph::softcap_attention`` is lowered: as torch's FlexAttention on CPUs, elsewhere by its definition.

why:     FlexAttention does not write the S x T scores: about 1.5 times as fast as the definition with 1024 tokens, but
         no faster with 512 (docs/passes.md). Its code for GPUs was not tried.
source:  Dong et al. 2024 (FlexAttention)
"""

from __future__ import annotations

import math

import torch
from torch.fx import GraphModule, Node

from txgraph.backends.inductor.adapter import flex_attention
from txgraph.ir import Graph, GraphBuilder, arguments, type_of
from txgraph.ir.node import COMPUTES
from txgraph.ir.ops import define
from txgraph.options import Target

FEWEST_SCORES = 2**20  # of a head: 1024 queries and keys
# A copy that Inductor does not look into: so its argument and its result are really there.
define("in_memory(Tensor value) -> Tensor", torch.Tensor.clone, torch.empty_like)

_aten = torch.ops.aten
_in_memory = torch.ops.txgraph.in_memory.default
_softcap = torch.ops.txgraph.softcap_attention.default


def inline_softcap(graph: Graph, target: Target) -> None:
    """Write those that FlexAttention does not take as ATen operators."""
    for node in graph.calls():
        if node.target is _softcap and not _fits_flex(node, target):
            node.replace_all_uses_with(_by_definition(GraphBuilder(graph, node), **arguments(node)))
            graph.fx.erase_node(node)


def _fits_flex(node: Node, target: Target) -> bool:
    """Whether FlexAttention compiles, and pays. With sizes that vary, Inductor's C++ names some that nobody defines."""
    named, result = arguments(node), node.meta["val"]
    query, key = (named[name].meta["val"] for name in ("query", "key"))
    operands = [result, *(source.meta["val"] for source in node.all_input_nodes)]
    if target.kind != "cpu" or result.ndim != 4 or result.dtype is torch.float64:
        return False
    fixed = all(isinstance(size, int) for value in operands for size in value.shape)
    return fixed and query.shape[-2] * key.shape[-2] >= FEWEST_SCORES


def _by_definition(
    g: GraphBuilder, query: Node, key: Node, value: Node, attn_mask: Node | None, scale: float, cap: float
) -> Node:
    product = g.aten.matmul(query, g.aten.transpose.int(key, -2, -1))
    scores = g.aten.mul.Tensor(g.aten.tanh(g.aten.mul.Tensor(product, scale / cap)), cap)
    if attn_mask is not None and type_of(attn_mask).dtype is torch.bool:  # type: ignore[union-attr]
        scores = g.aten.masked_fill.Scalar(scores, g.aten.logical_not(attn_mask), -math.inf)
    elif attn_mask is not None:
        scores = g.aten.add.Tensor(scores, attn_mask)
    return g.aten.matmul(g.aten._safe_softmax(scores, -1), value)


def softcap_to_flex(module: GraphModule) -> None:
    """Turn all that are left into calls of FlexAttention; ``module`` is what Inductor will compile."""
    masks: dict[Node, Node] = {}
    for node in list(module.graph.nodes):
        if node.target is _softcap:
            query, key, value, mask, scale, cap = arguments(node).values()
            before = set(module.graph.nodes)
            with module.graph.inserting_before(node):
                if mask is not None and mask not in masks:
                    masks[mask] = _held_mask(module.graph, mask)
                captured = () if mask is None else (masks[mask],)
                score = _score(*captured, scale=scale, cap=cap)
                attention = flex_attention(module, query, key, value, score, captured)
                # Inductor would fuse what follows into its kernel for CPUs, which cannot do that.
                node.replace_all_uses_with(module.graph.call_function(_in_memory, (attention,)))
            for new in set(module.graph.nodes) - before:
                new.meta[COMPUTES] = node.meta.get(COMPUTES, ())
            module.graph.erase_node(node)
    module.recompile()


def _held_mask(fx: torch.fx.Graph, mask: Node) -> Node:
    """The mask with four axes and in memory, where FlexAttention can read any element."""
    value = mask.meta["val"]
    for _ in range(4 - value.ndim):
        mask, value = fx.call_function(_aten.unsqueeze.default, (mask, 0)), value.unsqueeze(0)
    held = fx.call_function(_in_memory, (mask,))
    held.meta["val"] = value
    return held


def _score(mask: Node | None = None, *, scale: float, cap: float) -> GraphModule:
    """What becomes of the product of one query and one key: at batch b, head h, query i and key j."""
    fx = torch.fx.Graph()
    product, *place = (fx.placeholder(name) for name in ("product", "b", "h", "i", "j"))
    score = fx.call_function(_aten.mul.Tensor, (product, scale / cap))
    score = fx.call_function(_aten.mul.Tensor, (fx.call_function(_aten.tanh.default, (score,)), cap))
    if mask is not None:
        held, value = fx.placeholder("mask"), mask.meta["val"]
        sizes = zip(place, value.shape, strict=True)
        at = [fx.call_function(_aten.mul.Tensor, (p, 0)) if str(size) == "1" else p for p, size in sizes]
        seen = fx.call_function(_aten.index.Tensor, (held, at))
        if value.dtype is torch.bool:
            hidden = fx.call_function(_aten.full_like.default, (score, -math.inf))
            score = fx.call_function(_aten.where.self, (seen, score, hidden))
        else:
            score = fx.call_function(_aten.add.Tensor, (score, seen))
    fx.output(score)
    return GraphModule(torch.nn.Module(), fx)
