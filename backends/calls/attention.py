"""Choose, by measurement on this machine, what computes each float32 attention on a CPU.

before:  scaled_dot_product_attention(q, k, v, ...), txgraph::window_attention(q, k, v, ...),
         txgraph::threshold_attention(q, k, v, ...), or txgraph::ragged_attention(q, k, v, ...)
after:   txgraph::attention_native(q, k, v, ...), txgraph::window_attention_native(q, k, v, ...) where that is faster,
         else torch's, of windows by a mask that layers share; txgraph::threshold_attention_native(q, k, v, ...);
         txgraph::ragged_attention_native(q, k, v, ...)
why:     torch's kernel is made for long sequences; of packed ones it takes one length at a time, and it knows no
         windows. Of packed ones the lengths are not known yet: ours was faster in every batch that was tried, of
         lengths from 3 to 2048.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch.fx import Node

from txgraph.backends.calls.fastest import fastest
from txgraph.backends.calls.windows import keys_seen, with_mask
from txgraph.backends.kernels.attention import attention_native, window_attention_native
from txgraph.ir import Graph, GraphBuilder, arguments, type_of
from txgraph.ir.node import same_size
from txgraph.ir.ops import window_mask
from txgraph.progress import track

_DENSE = torch.ops.aten.scaled_dot_product_attention.default
_WINDOW = torch.ops.txgraph.window_attention.default
_THRESHOLD = torch.ops.txgraph.threshold_attention.default
_RAGGED = torch.ops.txgraph.ragged_attention.default
MEASURED_SECONDS = 0.1  # upper bound per distinct shape
# A query that sees less than one key in so many, in a head with so many scores: nobody need wait for torch's kernel.
FEW_KEYS, MANY_SCORES = 8, 2**20


@dataclass(frozen=True)
class AttentionShape:
    """One attention: ``[B, H, S, D]`` against ``[B, G, T, D]``, values of ``Dv``; sizes that vary as in the example.

    Attributes:
        window: the keys that a query sees, on average; 0: it is told no window.
        grows: whether there may be more keys than in the example; a window rarely is larger then.
    """

    batch: int
    heads: int
    key_heads: int
    queries: int
    keys: int
    depth: int
    width: int
    mask: torch.dtype | None
    causal: bool
    window: int = 0
    grows: bool = False

    def __str__(self) -> str:
        heads = f"{self.heads}" if self.key_heads == self.heads else f"{self.heads}/{self.key_heads}"
        beside = ", causal" if self.causal else ""
        if self.mask is not None:
            beside += ", boolean mask" if self.mask is torch.bool else ", mask"
        beside += f", {self.window} keys seen" if self.window else ""
        return f"attention {self.batch}x{heads}x{self.queries}x{self.keys}x{self.depth}{beside}"


def choose_attention(graph: Graph, remembers: bool = False) -> dict[str, str]:
    """Rewrite each attention of ``graph`` to what measures faster here; returns the choices, for the report.

    Args:
        remembers: what was measured for another model counts.
    """
    _replace_thresholds(graph)
    calls = [node for node in graph.calls() if node.target in (_DENSE, _WINDOW)]
    dense = {node: shape for node in calls if (shape := _shape_of(graph, node)) is not None}
    distinct = list(dict.fromkeys(dense.values()))
    choices = {shape: _measure(shape, remembers) for shape in track(distinct, "measure attention", str, timed=True)}
    masks: dict[tuple[Any, ...], Node] = {}
    for node in graph.calls():
        g = GraphBuilder(graph, node)
        ours = node in dense and choices[dense[node]][0] == "txgraph"
        named = arguments(node) if node.target in (_RAGGED, _DENSE, _WINDOW) else {}
        if node.target is _RAGGED and _is_float(node):
            del named["enable_gqa"]  # the numbers of heads say it
            _replace(graph, node, g.txgraph.ragged_attention_native(*named.values()))
        elif node.target is _WINDOW and ours:
            taken = [named[each] for each in ("query", "key", "value", "first", "end", "sinks", "scale")]
            _replace(graph, node, g.txgraph.window_attention_native(*taken))
        elif node.target is _WINDOW:
            _replace(graph, node, with_mask(g, node, masks))
        elif ours:
            taken = [named[each] for each in ("query", "key", "value", "attn_mask", "is_causal", "scale")]
            _replace(graph, node, g.txgraph.attention_native(*taken))
    return {str(shape): measured for shape, (_, measured) in choices.items()}


def _replace_thresholds(graph: Graph) -> None:
    """Those that the kernel computes; it knows nothing faster, as a pass has seen. Others stay as they are defined."""
    for node in graph.calls():
        if node.target is _THRESHOLD and _shape_of(graph, node) is not None:
            named = arguments(node)
            del named["enable_gqa"]  # the numbers of heads say it
            _replace(graph, node, GraphBuilder(graph, node).txgraph.threshold_attention_native(*named.values()))


def _replace(graph: Graph, node: Node, new: Node) -> None:
    node.replace_all_uses_with(new)
    graph.fx.erase_node(node)


def _is_float(node: Node) -> bool:
    """Whether all operands are float32 on a CPU, and a mask may be boolean."""
    named = arguments(node)
    for name in ("query", "key", "value", "attn_mask"):
        tensor_type = type_of(named.get(name))
        dtypes = (torch.float32, torch.bool) if name == "attn_mask" else (torch.float32,)
        if tensor_type is not None and (tensor_type.device.type != "cpu" or tensor_type.dtype not in dtypes):
            return False
    return True


def _shape_of(graph: Graph, node: Node) -> AttentionShape | None:
    """The shape of an attention that the kernel computes; ``None`` for any other."""
    named = arguments(node)
    query, key, value = (named[each].meta["val"] for each in ("query", "key", "value"))
    if not _is_float(node) or named.get("dropout_p") or {query.ndim, key.ndim, value.ndim} != {4}:
        return None
    if not all(same_size(query.shape[0], each.shape[0]) for each in (key, value)):
        return None
    if not same_size(key.shape[1], value.shape[1]):
        return None
    batch, heads, queries, depth = map(_hint, query.shape)
    _, key_heads, keys, width = map(_hint, value.shape)
    if not batch * heads * queries * keys * depth * width or heads % key_heads:
        return None
    mask = None if named.get("attn_mask") is None else named["attn_mask"].meta["val"].dtype
    sizes = (batch, heads, key_heads, queries, keys, depth, width, mask, named.get("is_causal", False))
    if node.target is not _WINDOW:
        return AttentionShape(*sizes)
    return AttentionShape(*sizes, keys_seen(graph, node, keys), isinstance(key.shape[2], torch.SymInt))


def _hint(size: int | torch.SymInt) -> int:
    return size if isinstance(size, int) else int(size.node.hint)


def _measure(shape: AttentionShape, remembers: bool) -> tuple[str, str]:
    """Time both on random input; torch's own stays unless ours is faster."""
    if shape.window and shape.grows:
        return "txgraph", "txgraph (not measured: the keys may be more, and torch's computes all scores)"
    if shape.window and shape.keys >= FEW_KEYS * shape.window and shape.queries * shape.keys >= MANY_SCORES:
        return (
            "txgraph",
            f"txgraph (not measured: torch's computes {shape.keys / shape.window:.0f} times as many scores)",
        )

    def random(heads: int, length: int, depth: int) -> torch.Tensor:
        return torch.randn(shape.batch, length, heads, depth).transpose(1, 2)

    query = random(shape.heads, shape.queries, shape.depth)
    key, value = (random(shape.key_heads, shape.keys, each) for each in (shape.depth, shape.width))
    mask = None if shape.mask is None else torch.ones(shape.queries, shape.keys).to(shape.mask)
    grouped = shape.heads != shape.key_heads
    end = (torch.arange(shape.queries) + 1).clamp(shape.window, max(shape.window, shape.keys))
    first = end - shape.window
    if shape.window:
        mask = window_mask(first, end, 0, shape.keys)

    def own() -> torch.Tensor:
        if shape.window:
            return window_attention_native(query, key, value, first, end, 0, None)
        return attention_native(query, key, value, mask, shape.causal, None)

    ways: dict[str, Callable[[], Any]] = {
        "aten": lambda: F.scaled_dot_product_attention(query, key, value, mask, 0.0, shape.causal, enable_gqa=grouped),
        "txgraph": own,
    }
    return fastest(ways, MEASURED_SECONDS, repr(shape) if remembers else "")
