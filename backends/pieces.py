"""Cut a graph into pieces, so that a layer that occurs many times is compiled once.

A piece is compiled as a function of all that it reads, constants too. The copies of a layer then run the same code on
weights of their own. What lies between the layers (embeddings before, a head behind) makes a few further pieces. What
is lost is fusion across the borders of layers, and a call for each layer.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import networkx as nx
import sympy
import torch
from torch.fx import Node
from torch.utils import _pytree as pytree

from txgraph.cost import CostModel, hardware_of
from txgraph.ir import Graph, GraphBuilder, Region, extract, find_regions
from txgraph.ir.node import is_symbolic, same_size
from txgraph.options import Target

FEWEST_COPIES = 3
MOST_PIECES_BETWEEN = 4  # each is compiled by itself
CALL_SECONDS = 10e-6  # of one more call of compiled code
LARGEST_LOSS = 0.05  # of a layer's time to that call


@dataclass(frozen=True)
class Piece:
    """A part of a graph that is compiled, or runs the code of another piece.

    Attributes:
        names: its nodes. inputs, outputs: names of the tensors that it takes, constants too, and gives.
        sizes: names of the symbolic sizes that it takes: it reads them off its inputs.
        like: number of the piece whose code it runs; its own number if that is its own.
    """

    names: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    sizes: tuple[str, ...]
    like: int

    def graph(self, whole: Graph) -> Graph:
        """The piece of ``whole`` as a graph of its own."""
        part = extract(whole, self.names, (*self.inputs, *self.sizes), self.outputs)
        tensors, sizes = part.inputs[: len(self.inputs)], part.inputs[len(self.inputs) :]
        if sizes:
            g = GraphBuilder(part, part.inputs[-1].next)
            for size in sizes:
                own = g.size(*_axis_of_size(size, tensors))
                assert isinstance(own, Node), "it varies"
                size.replace_all_uses_with(own)
                part.fx.erase_node(size)
        return part


def whole(graph: Graph) -> list[Piece]:
    """The graph as one piece."""
    calls = graph.calls()
    given = [*(n for n in graph.nodes if n.op == "get_attr"), *graph.inputs]
    inputs = [n.name for n in given if any(user.op == "call_function" for user in n.users)]
    outputs = dict.fromkeys(n.name for n in graph.outputs if isinstance(n, Node) and n.op == "call_function")
    return [Piece(tuple(n.name for n in calls), tuple(inputs), tuple(outputs), (), 0)] if calls else []


def layers(graph: Graph, target: Target, wanted: bool | None = None) -> list[Piece]:
    """The graph as pieces in the order in which they run; one piece if it has no layers worth a piece.

    Args:
        wanted: take layers of any size; ``None``: those that take long enough.
    """
    if wanted is False:
        return whole(graph)
    cost = CostModel(hardware_of(target), fuses_elementwise=True)
    nodes = {node.name: node for node in graph.nodes}
    regions = []
    for region in find_regions(graph):
        seconds = cost.seconds([nodes[name] for name in region.instances[0]])
        pays = wanted or seconds * LARGEST_LOSS > CALL_SECONDS
        if region.count >= FEWEST_COPIES and pays and _have_one_form(graph, nodes, region):
            regions.append(region)
    pieces = _pieces(graph, regions) if regions else []
    between = sum(piece.like == number for number, piece in enumerate(pieces)) - len(regions)
    if (
        not pieces
        or between > MOST_PIECES_BETWEEN
        or any(isinstance(n, Node) and is_symbolic(n) for n in graph.outputs)
    ):
        return whole(graph)
    return pieces if all(_knows_its_sizes(nodes, piece) for piece in pieces) else whole(graph)


def _have_one_form(graph: Graph, nodes: dict[str, Node], region: Region) -> bool:
    """Whether corresponding inputs have equal strides and are one value in all copies or none; no tuples among them."""
    values = [nodes[name].meta["val"] for names in (*region.inputs, *region.outputs) for name in names]
    if any(isinstance(value, tuple | list) for value in values):
        return False
    if len({tuple(map(names.index, names)) for names in region.inputs}) > 1:
        return False
    return all(
        len({_strides(graph, nodes[name]) for name in column}) == 1 for column in zip(*region.inputs, strict=True)
    )


def _strides(graph: Graph, node: Node) -> tuple[str, ...]:
    tensor = graph.constant(node)
    tensor = node.meta["val"] if tensor is None else tensor
    return tuple(map(str, tensor.stride())) if isinstance(tensor, torch.Tensor) else ()


def _pieces(graph: Graph, regions: Sequence[Region]) -> list[Piece]:
    """Copies of layers in an order in which they can run, and after each what needs it and no later one."""
    owner = {
        name: (r, k) for r, region in enumerate(regions) for k, names in enumerate(region.instances) for name in names
    }
    flow: nx.DiGraph = nx.DiGraph()
    for node in graph.calls():
        here = owner.get(node.name, node.name)
        flow.add_node(here)
        sources = (
            owner.get(source.name, source.name) for source in node.all_input_nodes if source.op == "call_function"
        )
        flow.add_edges_from((source, here) for source in sources if source != here)
    if not nx.is_directed_acyclic_graph(flow):
        return []  # a copy needs something that needs it
    order = [each for each in nx.topological_sort(flow) if isinstance(each, tuple)]
    level: dict[object, int] = {copy: place for place, copy in enumerate(order, 1)}
    between: list[list[str]] = [[] for _ in range(len(order) + 1)]
    for node in graph.calls():
        if node.name not in owner:
            sources = (owner.get(source.name, source.name) for source in node.all_input_nodes)
            level[node.name] = max((level.get(source, 0) for source in sources), default=0)
            between[level[node.name]].append(node.name)
    pieces: list[Piece] = []
    first: dict[int, int] = {}
    for place, names in enumerate(between):
        if place:
            r, k = order[place - 1]
            region = regions[r]
            like = first.setdefault(r, len(pieces))
            pieces.append(_piece(graph, region.instances[k], region.inputs[k], region.outputs[k], like))
        if names:
            pieces.append(_between(graph, names, len(pieces)))
    return pieces


def _between(graph: Graph, names: Collection[str], number: int) -> Piece:
    inside = set(names)
    nodes = [node for node in graph.calls() if node.name in inside]
    inputs = dict.fromkeys(s.name for node in nodes for s in node.all_input_nodes if s.name not in inside)
    outputs = [node.name for node in nodes if any(user.name not in inside for user in node.users)]
    return _piece(graph, names, inputs, outputs, number)


def _piece(graph: Graph, names: Collection[str], inputs: Collection[str], outputs: Collection[str], like: int) -> Piece:
    symbolic = {node.name for node in graph.nodes if is_symbolic(node)}
    tensors, sizes = ([n for n in inputs if (n in symbolic) is wanted] for wanted in (False, True))
    return Piece(tuple(names), tuple(tensors), tuple(n for n in outputs if n not in symbolic), tuple(sizes), like)


def _axis_of_size(size: Node, tensors: Sequence[Node]) -> tuple[Node, int]:
    """An axis of that size.

    Raises:
        LookupError: there is none.
    """
    for node in tensors:
        for axis, other in enumerate(node.meta["val"].shape):
            if same_size(size.meta["val"], other):
                return node, axis
    raise LookupError(f"no axis has the size %{size.name}")


def _knows_its_sizes(nodes: dict[str, Node], piece: Piece) -> bool:
    """Whether all sizes that a piece takes, or that its values have, are those of inputs."""
    try:
        for name in piece.sizes:
            _axis_of_size(nodes[name], [nodes[each] for each in piece.inputs])
    except LookupError:
        return False
    given = {_expression(size) for name in piece.inputs for size in nodes[name].meta["val"].shape}
    values = [leaf for name in piece.names for leaf in pytree.tree_leaves(nodes[name].meta["val"])]
    used = [_expression(size) for value in values if isinstance(value, torch.Tensor) for size in value.shape]
    return set().union(*(size.free_symbols for size in used)) <= given


def _expression(size: int | torch.SymInt) -> sympy.Expr:
    return sympy.Integer(size) if isinstance(size, int) else size.node.expr
