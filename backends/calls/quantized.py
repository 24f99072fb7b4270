"""Linears with quantized weights become calls of our kernels, on a CPU.

before:  txgraph::quantize_rows(x, d), txgraph::int8_linears(...), txgraph::weight_only_linears(...)
after:   txgraph::quantize_rows_native(x, d), txgraph::int8_linears_native(...), ... and what activation they lack;
         txgraph::quantized_linears_native(x, d, ...) where int8 linears are all that reads the quantized rows
why:     there is nothing to choose: neither torch nor oneDNN computes these in one call, with weights as they are
"""

from __future__ import annotations

import operator

import torch
from torch.fx import Node

from txgraph.backends.calls.linears import put
from txgraph.backends.kernels.linear import ACTIVATIONS
from txgraph.backends.kernels.quantized import DEEPEST
from txgraph.ir import Graph, GraphBuilder, arguments, describe, op_name, type_of
from txgraph.ir.activations import activate
from txgraph.options import Target

_QUANTIZE = torch.ops.txgraph.quantize_rows.default
_NATIVE = {
    _QUANTIZE: torch.ops.txgraph.quantize_rows_native.default,
    torch.ops.txgraph.int8_linears.default: torch.ops.txgraph.int8_linears_native.default,
    torch.ops.txgraph.weight_only_linears.default: torch.ops.txgraph.weight_only_linears_native.default,
}


def is_quantized(graph: Graph) -> bool:
    """Whether the kernels for quantized weights are needed."""
    return any(node.target in _NATIVE for node in graph.calls())


def unsupported_quantized(node: Node, target: Target) -> str:
    """Why a node cannot be lowered by :func:`lower_quantized`; empty if it can, or is none of these operators.

    On GPUs what our kernels do not take runs by its definition.
    """
    if node.target not in _NATIVE or target.kind != "cpu":
        return ""
    for each in (node, *node.all_input_nodes):
        tensor_type = type_of(each)
        if tensor_type is not None and tensor_type.dtype not in (torch.float32, torch.int8, torch.uint8):
            return (
                f"{describe(node)}: {op_name(node)} has kernels for float32 only, %{each.name} is {tensor_type.dtype}"
            )
    values = arguments(node).get("values")
    if values is not None and int(values.meta["val"].shape[-1]) > DEEPEST:
        return f"{describe(node)}: {op_name(node)} sums at most {DEEPEST} products"
    return ""


def lower_quantized(graph: Graph) -> None:
    """Rewrite each of these operators in ``graph``, which :func:`unsupported_quantized` has found nothing against."""
    for node in reversed(graph.calls()):  # what reads quantized rows, before what quantizes them
        if node.target not in _NATIVE or not node.users:
            continue
        named, target, rows = arguments(node), _NATIVE[node.target], _quantized_for(node)
        wanted = named.get("activation", "")
        inside = wanted if wanted in ACTIVATIONS else ""
        if wanted:
            named["activation"] = inside
        if rows is not None:
            target = torch.ops.txgraph.quantized_linears_native.default
            del named["values"], named["scales"]
            named = arguments(rows) | named
        g = GraphBuilder(graph, node, like=[node] if rows is None else [rows, node])
        results = g.call(target, *named.values())
        values = [g.call(operator.getitem, results, at) for at in range(len(node.meta["val"]))]
        put(graph, node, values if inside == wanted else [activate(g, value, wanted) for value in values])
    graph.eliminate_dead_code()


def _quantized_for(node: Node) -> Node | None:
    """What quantizes the rows that int8 linears read, if it does so for them alone."""
    if node.target is not torch.ops.txgraph.int8_linears.default:
        return None
    values, scales = (arguments(node)[name] for name in ("values", "scales"))
    source = values.args[0] if values.target is operator.getitem else None
    if not isinstance(source, Node) or source.target is not _QUANTIZE or scales.args[:1] != (source,):
        return None
    if (values.args[1], scales.args[1]) != (0, 1) or any(set(piece.users) - {node} for piece in source.users):
        return None
    return source
