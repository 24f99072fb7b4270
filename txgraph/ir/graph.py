"""The graph: a typed view over :class:`torch.fx.Graph` with its constants and its contract."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import networkx as nx
import torch
from torch.fx import Node

from txgraph.ir.constants import ConstantStore
from txgraph.ir.node import is_impure, op_name, provenance_of, type_of

if TYPE_CHECKING:
    from txgraph.ir.padding import PaddingAssumption, ZeroedOutput


@dataclass(frozen=True)
class Mutation:
    """An in-place write of the model, lifted to an output that is copied back after a call."""

    kind: Literal["buffer", "input"]
    target: str


@dataclass
class Graph:
    """A functional graph of ATen and ``txgraph::`` operators.

    Attributes:
        fx: the nodes: ``placeholder`` (one per input tensor), ``get_attr`` (a constant by name),
            ``call_function`` and ``output``.
        constants: the tensors that ``get_attr`` nodes name.
        mutations: the first ``len(mutations)`` outputs are written back to these targets; the rest
            are the model's own output leaves.
        symbols: readable names of symbolic sizes, such as ``{"s72": "B"}``.
        ranges: lowest and highest value of each symbol (``None``: no bound).
        assumptions: what must be true of a call's padding masks for the graph to be right, or to be the best one.
        zeroed: the outputs that are zero at padding, by the caller's word; not what the model itself gives there.
    """

    fx: torch.fx.Graph
    constants: ConstantStore = field(default_factory=ConstantStore)
    mutations: tuple[Mutation, ...] = ()
    symbols: Mapping[str, str] = field(default_factory=dict)
    ranges: Mapping[str, tuple[int, int | None]] = field(default_factory=dict)
    assumptions: tuple[PaddingAssumption, ...] = ()
    zeroed: tuple[ZeroedOutput, ...] = ()

    @property
    def nodes(self) -> Iterator[Node]:
        """All nodes, in topological order."""
        return iter(self.fx.nodes)

    @property
    def inputs(self) -> list[Node]:
        """The placeholders, in the order of a call's tensors."""
        return [n for n in self.fx.nodes if n.op == "placeholder"]

    @property
    def output(self) -> Node:
        """The output node; its single argument is the tuple of all outputs."""
        return self.fx.output_node()

    @property
    def outputs(self) -> tuple[Any, ...]:
        """Mutated values first, then the model's output leaves (nodes, or plain constants)."""
        return tuple(self.output.args[0])  # type: ignore[arg-type]  # the spec: a tuple

    def calls(self) -> list[Node]:
        """The operator nodes, in topological order."""
        return [n for n in self.fx.nodes if n.op == "call_function"]

    def count(self) -> dict[str, int]:
        """How often each operator occurs."""
        counts: dict[str, int] = {}
        for node in self.calls():
            counts[op_name(node)] = counts.get(op_name(node), 0) + 1
        return dict(sorted(counts.items()))

    def constant(self, value: object) -> torch.Tensor | None:
        """The tensor behind a ``get_attr`` node; ``None`` for anything else."""
        if isinstance(value, Node) and value.op == "get_attr":
            return self.constants[str(value.target)]
        return None

    def frozen(self, value: object) -> torch.Tensor | None:
        """The tensor behind a ``get_attr`` node that no call writes to; ``None`` for anything else."""
        tensor = self.constant(value)
        return None if tensor is None or self.is_written(value.target) else tensor  # type: ignore[attr-defined]

    def is_written(self, name: object) -> bool:
        """Whether each call writes to the constant of that name."""
        return any(m.target == name and m.kind == "buffer" for m in self.mutations)

    def lowest(self, size: int | torch.SymInt) -> int:
        """The lowest value that a size can take; 0 where that is not known."""
        if isinstance(size, int):
            return size
        return self.ranges.get(str(size), (0, None))[0]

    def copy(self) -> Graph:
        """A graph that can be rewritten apart from this one; the tensors are shared.

        Nodes keep their names, so that a node can be found again in the copy.
        """
        fresh = torch.fx.Graph()
        mapping: dict[Node, Node] = {}
        for node in self.fx.nodes:
            mapping[node] = fresh.node_copy(node, mapping.__getitem__)
            mapping[node].name = node.name  # fx renames a node called like a builtin, such as `input`
            mapping[node].meta = copy.copy(node.meta)
        contract = self.mutations, self.symbols, self.ranges, self.assumptions, self.zeroed
        return Graph(fresh, self.constants.copy(), *contract)

    def snapshot(self) -> tuple[object, ...]:
        """Equal as long as no node, argument or constant of this graph is changed."""
        nodes = [(n, n.target, n.args, n.kwargs) for n in self.fx.nodes]
        return nodes, {name: id(tensor) for name, tensor in self.constants.tensors.items()}, self.mutations

    def eliminate_dead_code(self) -> list[str]:
        """Remove nodes without effect on any output, and constants nothing names; returns the node names."""
        removed = []
        for node in reversed(list(self.fx.nodes)):
            if not node.users and not is_impure(node):
                removed.append(node.name)
                self.fx.erase_node(node)
        used = {str(n.target) for n in self.fx.nodes if n.op == "get_attr"}
        used |= {m.target for m in self.mutations if m.kind == "buffer"}
        for name in [n for n in self.constants if n not in used]:
            del self.constants.tensors[name]
            self.constants.sources.pop(name, None)
        return removed[::-1]

    def to_networkx(self) -> nx.DiGraph:
        """The data flow as a networkx graph.

        Nodes are named as in the graph, with ``op``, ``type`` (text), ``module`` and ``location``
        attributes; an edge runs from each value to its user.
        """
        digraph = nx.DiGraph()
        for node in self.fx.nodes:
            tensor_type, origin = type_of(node), provenance_of(node)
            digraph.add_node(
                node.name,
                op=op_name(node),
                kind=node.op,
                type="" if tensor_type is None else tensor_type.format(self.symbols),
                module=origin.module,
                location=origin.location,
            )
            digraph.add_edges_from((source.name, node.name) for source in node.all_input_nodes)
        return digraph

    def __str__(self) -> str:
        from txgraph.ir.printer import format_graph

        return format_graph(self)

    def __len__(self) -> int:
        return len(self.fx.nodes)


def output_leaves(graph: Graph, values: Sequence[Any]) -> tuple[Any, ...]:
    """The model's own outputs out of all values a graph returns."""
    return tuple(values[len(graph.mutations) :])
