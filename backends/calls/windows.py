"""What is known of windows when they are lowered: how many keys a query sees, and the mask that shows the same keys."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

import torch
from torch.fx import Node

from txgraph.ir import Graph, GraphBuilder, arguments


def keys_seen(graph: Graph, attention: Node, keys: int) -> int:
    """How many keys a query of a ``window_attention`` sees, on average; sizes that vary are as in the example.

    Args:
        keys: how many there are; the answer where a window depends on inputs.
    """
    named = arguments(attention)
    first, end = (_value(graph, named[side]) for side in ("first", "end"))
    if first is None or end is None:
        return keys
    first, end = first.clamp(0, keys), end.clamp(0, keys)
    seen = (end - first).clamp_min(0) + torch.minimum(first, end).clamp_max(named["sinks"])
    return max(1, round(float(seen.double().mean())))


def _value(graph: Graph, value: Any) -> Any:
    """What a node gives where it depends on constants and sizes only, else ``None``; of numbers, themselves."""
    if not isinstance(value, Node):
        return value
    result = value.meta.get("val")
    if isinstance(result, torch.SymInt):
        return int(result.node.hint)
    if value.op == "get_attr":
        return graph.constants[str(value.target)]
    if value.op != "call_function" or not isinstance(value.target, torch._ops.OpOverload):
        return None
    inputs = {source: _value(graph, source) for source in value.all_input_nodes}
    if any(each is None for each in inputs.values()):
        return None
    args, kwargs = torch.fx.map_arg((value.args, value.kwargs), inputs.__getitem__)
    return value.target(*args, **kwargs)


def with_mask(g: GraphBuilder, attention: Node, masks: MutableMapping[tuple[Any, ...], Node]) -> Node:
    """The same as torch's attention with a mask.

    Args:
        masks: those that were made before, in the order of the graph: all layers with the same windows have one.
    """
    named = arguments(attention)
    window = named["first"], named["end"], named["sinks"], str(named["key"].meta["val"].shape[2])
    if window not in masks:
        first, end = (g.aten.unsqueeze.default(side, 1) for side in window[:2])
        options = {"device": named["key"].meta["val"].device, "pin_memory": False}
        places = g.aten.arange.default(g.size(named["key"], 2), **options)
        later = g.aten.ge.Tensor(places, first)
        if named["sinks"]:
            later = g.aten.logical_or.default(later, g.aten.lt.Scalar(places, named["sinks"]))
        masks[window] = g.aten.logical_and.default(later, g.aten.lt.Tensor(places, end))
    options = {"scale": named["scale"], "enable_gqa": named["enable_gqa"]}
    operands = (named[each] for each in ("query", "key", "value"))
    return g.aten.scaled_dot_product_attention.default(*operands, masks[window], 0.0, False, **options)
