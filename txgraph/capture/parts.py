"""What one call of a composite operator is made of: ``contiguous`` is a copy, or nothing."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Graph, Node, map_arg
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

_aten = torch.ops.aten
_VIEWS = (_aten.view.default, _aten._unsafe_view.default)


@dataclass(frozen=True)
class Parts:
    """The operators that a call makes, as a graph of its own.

    Attributes:
        node: the call. inputs: what it was given.
        graph: its placeholders are these inputs in their order, its output is the call's result.
    """

    node: Node
    inputs: tuple[Node, ...]
    graph: Graph

    @classmethod
    def of(cls, node: Node) -> Parts | None:
        """Run the call on its fake tensors; ``None`` where an operator needs a number that is not at hand."""
        args, kwargs = map_arg((node.args, node.kwargs), lambda n: n.meta["val"])
        recorder = _Recorder(node)
        try:
            with torch.no_grad(), recorder:
                result = node.target(*args, **kwargs)  # type: ignore[operator]  # a call_function node
            recorder.graph.output(recorder.nodes_of(result))
            recorder.graph.eliminate_dead_code()  # sizes that nothing needs
        except _NotAtHandError:
            return None
        return cls(node, tuple(node.all_input_nodes), recorder.graph)

    def insert(self, now: Mapping[Node, Any], sizes: InputSizes) -> Any:
        """Insert the operators where the call's graph inserts; the node, or nodes, that give its result.

        Args:
            now: what stands for values of the program. sizes: those that the program's inputs have.
        """
        places = self.graph.find_nodes(op="placeholder")
        values = {place: now.get(given, given) for place, given in zip(places, self.inputs, strict=True)}
        for read in self.graph.find_nodes(op="call_function", target=_aten.sym_size.int):
            if size := sizes.get(read.meta["val"]):
                values[read] = size
        made = [n for n in self.graph.nodes if n.op == "call_function" and n not in values]
        result = self.node.graph.graph_copy(self.graph, values)
        for part in made:
            values[part].meta = {**self.node.meta, "val": part.meta["val"]}
        return result


class InputSizes:
    """Symbolic sizes of a graph's inputs, each read once: reading one of a computed value would keep that alive."""

    def __init__(self, graph: Graph) -> None:
        self._first = next(n for n in graph.nodes if n.op != "placeholder")
        self._axes: dict[str, tuple[Node, int]] = {}
        self._read: dict[str, Node] = {}
        for node in graph.find_nodes(op="placeholder"):
            for axis, size in enumerate(getattr(node.meta["val"], "shape", ())):
                if isinstance(size, torch.SymInt):
                    self._axes.setdefault(str(size), (node, axis))

    def get(self, size: torch.SymInt) -> Node | None:
        """The node that reads it; ``None`` if it is a size of no input."""
        if (key := str(size)) in self._axes and key not in self._read:
            node, axis = self._axes[key]
            with node.graph.inserting_before(self._first):
                self._read[key] = node.graph.call_function(_aten.sym_size.int, (node, axis))
            self._read[key].meta["val"] = node.meta["val"].shape[axis]
        return self._read.get(key)


class _NotAtHandError(Exception):
    """A tensor or a symbolic size that is none of the call's inputs, nor made of them by a recorded operator.

    Or an operator that writes, which is no part of a functional program.
    """


class _Recorder(TorchDispatchMode):
    """Runs a call, and makes a graph of the operators that it is made of."""

    def __init__(self, node: Node) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.graph = Graph()
        self._nodes: dict[int | str, Node] = {}  # of tensors by identity, of symbolic sizes by their formula
        self._held: list[Any] = []  # an identity is a value's own only while it lives
        inputs = [(n, self.graph.placeholder(n.name)) for n in node.all_input_nodes]
        for given, made in inputs:
            self._keep(given.meta["val"], made)
        for given, made in inputs:
            self._keep_sizes(given.meta["val"], made)

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func._schema.is_mutable:  # type: ignore[attr-defined]  # an operator
            raise _NotAtHandError
        result = func(*args, **(kwargs or {}))
        if func in _VIEWS:
            args = (args[0], self._with_one_inferred(args[1]))
        made = self.graph.call_function(func, *self.nodes_of((args, dict(kwargs or {}))))
        made.meta["val"] = result
        self._keep(result, made)
        return result

    def nodes_of(self, values: Any) -> Any:
        """Nodes in the place of tensors and symbolic sizes."""
        return pytree.tree_map_only((torch.Tensor, torch.SymInt), self._node_of, values)

    def _node_of(self, value: torch.Tensor | torch.SymInt) -> Node:
        try:
            return self._nodes[_key(value)]
        except KeyError:
            raise _NotAtHandError from None

    def _with_one_inferred(self, sizes: Any) -> list[Any]:
        """Sizes of a view, with -1 for the only one that is not at hand."""
        unknown = [size for size in sizes if isinstance(size, torch.SymInt) and _key(size) not in self._nodes]
        return [-1 if len(unknown) == 1 and size is unknown[0] else size for size in sizes]

    def _keep(self, value: Any, node: Node) -> None:
        """Remember what gives a value; the elements of a list are nodes of their own."""
        if isinstance(value, list | tuple):
            for place, element in enumerate(value):
                made = self.graph.call_function(operator.getitem, (node, place))
                made.meta["val"] = element
                self._keep(element, made)
        elif isinstance(value, torch.Tensor | torch.SymInt):
            self._held.append(value)
            self._nodes.setdefault(_key(value), node)

    def _keep_sizes(self, value: Any, node: Node) -> None:
        """Symbolic sizes of an input: read where an operator needs one."""
        sizes: list[Any] = list(value.shape) if isinstance(value, torch.Tensor) else []  # numbers, and symbolic ones
        for axis, size in enumerate(sizes):
            if isinstance(size, torch.SymInt) and _key(size) not in self._nodes:
                self._nodes[_key(size)] = made = self.graph.call_function(_aten.sym_size.int, (node, axis))
                made.meta["val"] = size


def _key(value: torch.Tensor | torch.SymInt) -> int | str:
    return id(value) if isinstance(value, torch.Tensor) else str(value)
