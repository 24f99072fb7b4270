"""A graph in which each region is one call of its kernel."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence

import torch
from torch._ops import OpOverload
from torch.fx import Node

from txgraph.backends.tvm.code import Code
from txgraph.backends.tvm.launch import Launch
from txgraph.backends.tvm.regions import MOVES, Region
from txgraph.ir import Graph, Kernel, describe, op_name, type_of
from txgraph.ir.aliasing import is_view
from txgraph.ir.kernel import kind_of_call, operator_path
from txgraph.ir.node import COMPUTES, is_symbolic

_SIZE = torch.ops.aten.sym_size.int
Functions = Mapping[str, Callable[..., None]]


def program_of(graph: Graph, regions: Sequence[tuple[str, Region]], functions: Functions) -> Graph:
    """The graph that is run: it takes the constants that ``graph`` names, in their order, and then its inputs.

    Args:
        regions: of ``graph``, each with the name of its function.
    """
    return _Writer(graph, regions, functions).written()


def constants_of(graph: Graph) -> list[str]:
    """The names of the constants that a graph reads, each once."""
    return list(dict.fromkeys(str(node.target) for node in graph.nodes if node.op == "get_attr"))


class _Writer:
    """Writes operators in an order in which the inputs of a region stand before all of it."""

    def __init__(self, graph: Graph, regions: Sequence[tuple[str, Region]], functions: Functions) -> None:
        self._graph, self._functions = graph, functions
        self._region_of = {node: (name, region) for name, region in regions for node in region.nodes}
        self._fx = torch.fx.Graph()
        self._made: dict[Node, Node] = {}
        self._sizes: dict[str, Node] = {}

    def written(self) -> Graph:
        constants = {name: self._fx.placeholder(f"constant_{at}") for at, name in enumerate(constants_of(self._graph))}
        for node in self._graph.nodes:
            if node.op == "get_attr":
                self._made[node] = constants[str(node.target)]
            elif node.op == "placeholder":
                self._made[node] = self._fx.placeholder(node.name)
        for node in self._graph.calls():
            if node not in self._region_of or node in self._region_of[node][1].outputs:
                self._write(node)
        self._fx.output(tuple(self._made[v] if isinstance(v, Node) else v for v in self._graph.outputs))
        return Graph(self._fx)

    def _write(self, node: Node) -> Node:
        if node not in self._made:
            if node in self._region_of:
                self._launch(*self._region_of[node])
            else:
                for source in node.all_input_nodes:
                    self._write(source)
                self._made[node] = self._fx.node_copy(node, self._made.__getitem__)
        return self._made[node]

    def _launch(self, name: str, region: Region) -> None:
        inputs = [self._write(node) for node in region.inputs]
        symbols = [self._size(symbol) for symbol in region.symbols]
        launch = self._fx.call_function(Launch(name, self._functions[name], region), (*symbols, *inputs))
        launch.meta[COMPUTES] = tuple(
            dict.fromkeys(computed for node in region.nodes for computed in node.meta.get(COMPUTES, ()))
        )
        for at, node in enumerate(region.outputs):
            self._made[node] = self._fx.call_function(operator.getitem, (launch, at))

    def _size(self, symbol: str) -> Node:
        """The value of a symbol, read off the first tensor that has an axis of that size."""
        if symbol not in self._sizes:
            node, axis = self._axis_of(symbol)
            self._sizes[symbol] = self._fx.call_function(_SIZE, (self._write(node), axis))
            self._sizes[symbol].meta["val"] = node.meta["val"].shape[axis]
        return self._sizes[symbol]

    def _axis_of(self, symbol: str) -> tuple[Node, int]:
        for node in self._graph.nodes:
            value = node.meta.get("val")
            for axis, size in enumerate(value.shape if isinstance(value, torch.Tensor) else ()):
                if str(size) == symbol:
                    return node, axis
        raise AssertionError(f"{symbol} is the size of an axis")


def kernels_of(graph: Graph, program: Graph, code: Code) -> tuple[Kernel, ...]:
    """What one call of ``program`` launches, in that order.

    Args:
        graph: the one that was given to the backend.
    """
    order = {node.name: at for at, node in enumerate(graph.calls())}
    kernels = []
    for node in program.calls():
        nodes = tuple(sorted((n for n in node.meta.get(COMPUTES, ()) if n in order), key=order.__getitem__))
        if isinstance(node.target, Launch):
            name = node.target.__name__
            kernels.append(Kernel(name, nodes, "generated", code.functions[name], code.ptx.get(name, ""), code.cubin))
        else:
            name = operator_path(node)
            kernels.append(Kernel(name, nodes, kind_of_call(name, "library" if is_library(node) else "interpreted")))
    return tuple(kernels)


_LIBRARY = frozenset(
    f"aten.{name}"
    for name in (
        *("linear", "matmul", "bmm", "mm", "addmm", "baddbmm", "scaled_dot_product_attention"),
        *("embedding", "index", "index_select", "gather", "conv1d", "conv2d", "convolution"),
    )
)


def is_library(node: Node) -> bool:
    """Whether an operator is meant to be called: products, and what reads at computed indices."""
    return operator_path(node) in _LIBRARY


def fallbacks_of(program: Graph) -> tuple[str, ...]:
    """The operators that should have been generated, and are called one by one: a line for each kind."""
    found: dict[str, list[Node]] = {}
    for node in program.calls():
        if not isinstance(node.target, Launch) and isinstance(node.target, OpOverload):
            called = is_view(node) or is_symbolic(node) or is_library(node) or node.target in MOVES
            if not called and node.target.namespace != "txgraph":
                found.setdefault(f"{op_name(node)} of {type_of(node)}".partition("[")[0], []).append(node)
    return tuple(
        f"{what} is called one by one ({len(nodes)} of them): {describe(nodes[0])}" for what, nodes in found.items()
    )
