"""Take a part of a graph out as a graph of its own."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

import torch
from torch.fx import Node

from txgraph.ir.graph import Graph


def extract(
    graph: Graph, names: Collection[str], inputs: Sequence[str] | None = None, outputs: Sequence[str] | None = None
) -> Graph:
    """The named nodes as a graph with the same names; the constants are shared.

    Args:
        inputs: names of the values that become its inputs; by default all that come from outside, but constants.
        outputs: names of the values that become its outputs; by default all that are used outside, or nowhere.

    Raises:
        KeyError: a node takes a value that is neither inside nor an input.
    """
    inside = [node for node in graph.nodes if node.name in names]
    taken = dict.fromkeys(source for node in inside for source in node.all_input_nodes if source.name not in names)
    if inputs is None:
        inputs = [source.name for source in taken if source.op != "get_attr"]
    if outputs is None:
        outputs = [n.name for n in inside if not n.users or any(user.name not in names for user in n.users)]
    nodes = {node.name: node for node in graph.nodes}
    fx = torch.fx.Graph()
    made: dict[Node, Node] = {}
    for name in inputs:
        made[nodes[name]] = fx.placeholder(name)
    for node in (*(source for source in taken if source.op == "get_attr" and source not in made), *inside):
        made[node] = fx.node_copy(node, made.__getitem__)
    for source, copy in made.items():
        copy.name = source.name  # fx renames a node called like a builtin, such as `input`
        copy.meta = dict(source.meta) if copy.op != "placeholder" else {"val": source.meta["val"]}
    fx.output(tuple(made[nodes[name]] for name in outputs))
    part = Graph(fx, graph.constants.copy(), symbols=graph.symbols, ranges=graph.ranges)
    part.eliminate_dead_code()  # constants that it does not name
    return part


def kind_of(graph: Graph, names: Collection[str]) -> str:
    """Equal for parts that are equal but for the names of inputs and the values of constants."""
    nodes = {node.name: node for node in graph.nodes}
    taken = dict.fromkeys(s.name for name in names for s in nodes[name].all_input_nodes if s.name not in names)
    return re.sub(r"= input .*", "= input", str(extract(graph, names, inputs=list(taken))))
