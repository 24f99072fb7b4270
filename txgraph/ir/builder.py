"""Make new nodes with their types inferred and their origin kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch._ops import OpOverload, OpOverloadPacket
from torch._subclasses import FakeTensor, FakeTensorMode
from torch.fx import Node

from txgraph.ir.graph import Graph
from txgraph.ir.node import COMPUTES


class _Namespace:
    """``g.aten.linear(x, w)`` and ``g.aten.add.Tensor(x, y)``."""

    def __init__(self, builder: GraphBuilder, operators: Any) -> None:
        self._builder = builder
        self._operators = operators

    def __getattr__(self, name: str) -> _Operator:
        return _Operator(self._builder, getattr(self._operators, name))


class _Operator:
    def __init__(self, builder: GraphBuilder, packet: OpOverloadPacket) -> None:
        self._builder = builder
        self._packet = packet

    def __getattr__(self, overload: str) -> Callable[..., Node]:
        target = getattr(self._packet, overload)
        return lambda *args, **kwargs: self._builder.call(target, *args, **kwargs)

    def __call__(self, *args: Any, **kwargs: Any) -> Node:
        return self._builder.call(self._resolve(args), *args, **kwargs)

    def _resolve(self, args: tuple[Any, ...]) -> OpOverload:
        """The overload of an operator that is called without naming one."""
        overloads = self._packet.overloads()
        # Where both exist, "default" of an arithmetic operator is the one between two Python numbers.
        if "default" in overloads and ("Tensor" not in overloads or _takes_tensor(self._packet.default)):
            return self._packet.default
        if len(overloads) == 1:
            return getattr(self._packet, overloads[0])  # type: ignore[no-any-return]
        wanted = "Tensor" if len(args) > 1 and isinstance(args[1], Node) else "Scalar"
        if wanted in overloads:
            return getattr(self._packet, wanted)  # type: ignore[no-any-return]
        raise TypeError(f"{self._packet} has the overloads {overloads}: name one, as in g.aten.mean.dim(x, [-1])")


def _takes_tensor(operator: OpOverload) -> bool:
    return any("Tensor" in str(argument.type) for argument in operator._schema.arguments)


class GraphBuilder:
    """Inserts nodes before a given place; each gets its type and the origin of ``like``.

    Attributes:
        aten, txgraph: the operators of these namespaces, as functions that insert a node.
        made: the nodes inserted so far.
    """

    def __init__(self, graph: Graph, before: Node, like: Sequence[Node] = (), made_by: str = "") -> None:
        self.graph = graph
        self.aten = _Namespace(self, torch.ops.aten)
        self.txgraph = _Namespace(self, torch.ops.txgraph)
        self._before = before
        self._like = tuple(like) or (before,)
        self._made_by = made_by
        self.made: list[Node] = []

    def call(self, target: Callable[..., Any], *args: Any, **kwargs: Any) -> Node:
        """Insert a call of any operator (or function of symbolic sizes)."""
        node = self._insert(target, args, kwargs)
        node.meta["val"] = infer(node, self.graph)
        self._mark(node)
        return node

    def typed(self, value: Any, target: Callable[..., Any], *args: Any) -> Node:
        """Insert a call whose type is known: a fake tensor, or a tuple of them, as sizes that depend on values have."""
        node = self._insert(target, args, {})
        node.meta["val"] = value
        self._mark(node)
        return node

    def _insert(self, target: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Node:
        with self.graph.fx.inserting_before(self._before):
            return self.graph.fx.call_function(target, args, kwargs)

    def size(self, value: Node, axis: int) -> int | Node:
        """A size of a tensor, as an argument of operators: a number, or a node where it varies."""
        size: int | torch.SymInt = value.meta["val"].shape[axis]
        return size if isinstance(size, int) else self.call(torch.ops.aten.sym_size.int, value, axis)

    def constant(self, name: str, tensor: torch.Tensor, made_from: Sequence[str]) -> Node:
        """Insert a new constant computed from the constants named by ``made_from``."""
        unique = self.graph.constants.add_folded(name, tensor, made_from)
        with self.graph.fx.inserting_before(next(iter(self.graph.fx.nodes))):
            node = self.graph.fx.create_node("get_attr", unique)
        mode = fake_mode_of(self.graph)
        node.meta["val"] = mode.from_tensor(tensor.detach(), static_shapes=True)
        self._mark(node)
        return node

    def discard(self) -> None:
        """Remove what was made; nothing may use it."""
        while self.made:
            self.graph.fx.erase_node(self.made.pop())

    def _mark(self, node: Node) -> None:
        self.made.append(node)
        origin = self._like[-1]
        for key in ("nn_module_stack", "stack_trace", "seq_nr"):
            if key in origin.meta:
                node.meta[key] = origin.meta[key]
        computed = dict.fromkeys(name for n in self._like for name in n.meta.get(COMPUTES, ()))
        if computed:
            node.meta[COMPUTES] = tuple(computed)
        touched = dict.fromkeys(p for n in self._like for p in n.meta.get("txgraph_passes", ()))
        node.meta["txgraph_passes"] = (*touched, self._made_by) if self._made_by else tuple(touched)


def infer(node: Node, graph: Graph | None = None) -> Any:
    """The type of a call node, from the types of its arguments, by running it on fake tensors.

    A tensor made of nothing gets its type from ``graph``, if the types there are fake.
    """
    values = [n.meta["val"] for n in node.all_input_nodes]
    mode = next((v.fake_mode for v in _flatten(values) if isinstance(v, FakeTensor)), None)
    if mode is None and graph is not None and not any(isinstance(v, torch.Tensor) for v in _flatten(values)):
        mode = _fake_mode_in(graph)
    args = torch.fx.map_arg(node.args, lambda n: n.meta["val"])
    kwargs = torch.fx.map_arg(node.kwargs, lambda n: n.meta["val"])
    if mode is None:
        return node.target(*args, **kwargs)  # type: ignore[operator]  # a call_function node
    with mode, torch.no_grad():
        return node.target(*args, **kwargs)  # type: ignore[operator]


def fake_mode_of(graph: Graph) -> FakeTensorMode:
    """The fake tensor mode that the graph's types belong to."""
    return _fake_mode_in(graph) or FakeTensorMode()


def _fake_mode_in(graph: Graph) -> FakeTensorMode | None:
    values = (value for node in graph.nodes for value in _flatten([node.meta.get("val")]))
    return next((value.fake_mode for value in values if isinstance(value, FakeTensor)), None)


def _flatten(values: Sequence[Any]) -> list[Any]:
    return [leaf for v in values for leaf in (_flatten(v) if isinstance(v, list | tuple) else [v])]
