"""Joint weights for linears of one input that no kernel takes together, and values put in their places."""

from __future__ import annotations

import operator
from collections.abc import Sequence

import torch
from torch.fx import Node

from txgraph.ir import Graph, GraphBuilder, arguments
from txgraph.ir.activations import activate
from txgraph.ir.aliasing import reaches_output
from txgraph.ir.linears import Linears, results_of

LARGEST_COPY = 256 << 20  # bytes of a joint weight


def join_linears(graph: Graph) -> None:
    """Give linears of one input that no kernel takes together a joint weight, a copy; if it is not too large."""
    for node in graph.calls():
        linears = Linears.of(node) if node.target is torch.ops.txgraph.linears.default else None
        if linears is not None:
            put(graph, node, _joined(graph, node, linears) or _apart(graph, node, linears))
    graph.eliminate_dead_code()


def _apart(graph: Graph, node: Node, linears: Linears) -> list[Node]:
    builder = GraphBuilder(graph, node)
    return [builder.aten.linear(linears.input, w, b) for w, b in zip(linears.weights, linears.biases, strict=True)]


def _joined(graph: Graph, node: Node, linears: Linears) -> list[Node]:
    """One linear, and the pieces of its result; none if a weight is no constant, or all are too large."""
    weights, biases = ([graph.frozen(each) for each in nodes] for nodes in (linears.weights, linears.biases))
    if any(w is None for w in weights) or any(b is None and n for b, n in zip(biases, linears.biases, strict=True)):
        return []
    held = [w for w in weights if w is not None]
    if sum(weight.nbytes for weight in held) > LARGEST_COPY:
        return []
    g = GraphBuilder(graph, node)
    joint, bias = _joint(g, linears.weights, held), None
    if any(each is not None for each in biases):  # -0.0 can be added to anything
        pairs = zip(biases, held, strict=True)
        bias = _joint(g, linears.biases, [w.new_full(w.shape[:1], -0.0) if b is None else b for b, w in pairs])
    parts = g.aten.split_with_sizes(g.aten.linear(linears.input, joint, bias), [len(w) for w in held], -1)
    pieces = [g.call(operator.getitem, parts, at) for at in range(len(held))]
    for at, piece in results_of(node):
        if reaches_output(piece):  # the caller may view it, write to it, or keep it without the others
            pieces[at] = g.aten.clone(pieces[at], memory_format=torch.contiguous_format)
    return pieces


def _joint(builder: GraphBuilder, nodes: Sequence[Node | None], tensors: list[torch.Tensor]) -> Node:
    names = list(dict.fromkeys(str(n.target) for n in nodes if n is not None))
    return builder.constant("_and_".join(names), torch.cat(tensors), names)


def inline_activations(graph: Graph) -> None:
    """Write the activations of ``txgraph::`` that stayed back as ATen operators."""
    for node in graph.calls():
        if node.target is torch.ops.txgraph.quick_gelu.default:
            node.replace_all_uses_with(activate(GraphBuilder(graph, node), node.all_input_nodes[0], "quick_gelu"))
            graph.fx.erase_node(node)
        if node.target is torch.ops.txgraph.linear_activation.default:
            named = arguments(node)
            builder = GraphBuilder(graph, node)
            linear = builder.aten.linear(named["input"], named["weight"], named["bias"])
            node.replace_all_uses_with(activate(builder, linear, named["activation"]))
            graph.fx.erase_node(node)


def put(graph: Graph, node: Node, values: Sequence[Node]) -> None:
    """Put values in the place of a node: of itself, or of its pieces if it gives a list."""
    if isinstance(node.meta["val"], torch.Tensor):
        (value,) = values
        node.replace_all_uses_with(value)
    else:
        for at, piece in results_of(node):
            piece.replace_all_uses_with(values[at])
            graph.fx.erase_node(piece)
    graph.fx.erase_node(node)
