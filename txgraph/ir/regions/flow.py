"""The data flow of a graph in numbers."""

from __future__ import annotations

from collections.abc import Hashable, Iterator

from torch.fx import Node
from torch.fx.node import map_aggregate

from txgraph.ir.graph import Graph
from txgraph.ir.node import type_of

Column = tuple[int, ...]  # one node of each copy; they correspond


class Flow:
    """The data flow; nodes are numbers in topological order.

    Attributes:
        arguments: the nodes that a node takes, in order.
        types: equal for nodes of equal type.
        labels: equal for equal operators with equal plain arguments and results of equal type.
        taken: nodes of the regions found so far.
    """

    def __init__(self, graph: Graph) -> None:
        self.nodes = list(graph.nodes)
        self.arguments: list[list[int]] = []
        self.users: list[list[int]] = [[] for _ in self.nodes]
        self.types: list[int] = []
        self.labels: list[int] = []
        self.taken: set[int] = set()
        places = {node: place for place, node in enumerate(self.nodes)}
        known: dict[Hashable, int] = {}
        for place, node in enumerate(self.nodes):
            sources, plain = _arguments(node)
            self.arguments.append([places[source] for source in sources])
            for source in set(self.arguments[place]):
                self.users[source].append(place)
            kind = _type_text(node.meta.get("val"))
            self.types.append(known.setdefault(kind, len(known)))
            self.labels.append(known.setdefault((node.target, plain, kind), len(known)))

    def is_call(self, n: int) -> bool:
        """Whether a node calls an operator."""
        return self.nodes[n].op == "call_function"

    def is_constant(self, n: int) -> bool:
        """Whether a node is a tensor that the graph owns."""
        return self.nodes[n].op == "get_attr"


def _arguments(node: Node) -> tuple[list[Node], str]:
    """The nodes that a node takes, in order, and all other arguments as text."""
    sources: list[Node] = []

    def plain(value: object) -> object:
        if isinstance(value, Node):
            sources.append(value)
            return ...  # no operator takes an ellipsis: it stands for a node
        return value

    return sources, repr(map_aggregate((node.args, dict(sorted(node.kwargs.items()))), plain))  # type: ignore[arg-type]


def _type_text(value: object) -> str:
    if isinstance(value, list | tuple):
        return f"({', '.join(map(_type_text, value))})"
    tensor_type = type_of(value)
    return f"{type(value).__name__} {value}" if tensor_type is None else f"{tensor_type} {tensor_type.device}"


def sources_of(flow: Flow, column: Column) -> Iterator[Column]:
    """What corresponding nodes take, argument by argument."""
    return zip(*(flow.arguments[n] for n in column), strict=True)
