"""Take units out of a graph: smaller weights, and smaller values between them."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.fx import Node

from txgraph.cost import CostModel
from txgraph.ir import Graph, GraphBuilder, arguments, type_of
from txgraph.passes.sparsity.flow import UnitFlow
from txgraph.passes.sparsity.linears import Weight, linear_of, results_of, weights_of
from txgraph.passes.sparsity.rules import ATTENTION, PIECES, RESHAPES, head_axis, offset_of, shape_of, viewed
from txgraph.passes.sparsity.units import Units
from txgraph.rewrite import Pass, PassContext, Rewrite, replace

_aten = torch.ops.aten


@dataclass(frozen=True)
class Smaller:
    """What stands beside a graph's nodes, ready to take their place.

    Attributes:
        values: the new value of each node that is used by others.
        inner: further nodes that go, each before what it uses.
        made: the nodes that were made.
    """

    values: Mapping[Node, Node]
    inner: tuple[Node, ...]
    made: tuple[Node, ...]

    def seconds_saved(self, cost: CostModel) -> float:
        """Predicted seconds of what goes less those of what comes; views are as many as before."""
        gone, come = ([n for n in nodes if viewed(n) is None] for nodes in ((*self.values, *self.inner), self.made))
        return cost.seconds(gone) - cost.seconds(come)

    @property
    def root(self) -> Node:
        """The node by which the rewrite is known."""
        return next(iter(self.values))

    def is_wanted(self, each: Pass, context: PassContext) -> bool:
        """Whether it is permitted, and predicted to save time; if not, what was made is removed, the reason noted."""
        gain = self.seconds_saved(context.cost) if context.weighs else None
        if gain is not None and gain <= 0:
            hardware = context.cost.hardware.name
            context.decline(each, self.root, f"no gain: predicted {gain * 1e6:.2f} µs on {hardware}")
        elif context.permits(each, self.root):
            return True
        self.discard()
        return False

    def apply(self, rule: str, exact: bool = True) -> Rewrite:
        """Put it in its place; ``exact``: the values are the same as before, up to rounding."""
        tensors = {old: new for old, new in self.values.items() if type_of(old) is not None}
        return replace(rule, self.values, self.made, self.inner, equal=tensors if exact else {})

    def discard(self) -> None:
        """Remove it again."""
        for node in reversed(self.made):
            node.graph.erase_node(node)


def without_units(
    graph: Graph,
    flow: UnitFlow,
    kept: torch.Tensor,
    rule: str,
    constants: Mapping[str, torch.Tensor] | None = None,
    weights: Mapping[str, torch.Tensor] | None = None,
) -> Smaller:
    """Make the part of a graph that holds units again, with fewer of them.

    Args:
        kept: bool ``[flow.count]``.
        rule: name of the pass.
        constants: by the name of a value that is read: float64, for each of its places what a unit that goes is
            taken to be everywhere; its share goes into the bias of the reader. By default 0.
        weights: new weights of the readers, ``[N, places that stay]``, by the name of the constant.
    """
    work = _Work(graph, flow, kept, rule, constants or {}, weights or {})
    for node in graph.calls():
        work.visit(node)
    read = [result for linear in flow.readers for result in results_of(linear) if result in work.values]
    values = {node: work.values[node] for node in (*read, *work.values)}
    inner = [node for node in reversed(work.new) if node.op == "call_function" and node not in values]
    return Smaller(values, tuple(inner), tuple(work.made))


def share_of(weight: torch.Tensor, units: Units, kept: torch.Tensor, constants: torch.Tensor) -> torch.Tensor:
    """What the units that go add to each output of a weight ``[N, K]``, if they are ``constants``: float64 ``[N]``."""
    gone = _tiled(~units.kept(kept), weight.shape[1]).nonzero().flatten().to(weight.device)
    return weight[:, gone].double() @ constants.to(weight.device)[gone]


@dataclass
class _Work:
    """One rewrite: what was made in place of what."""

    graph: Graph
    flow: UnitFlow
    kept: torch.Tensor
    rule: str
    constants: Mapping[str, torch.Tensor]
    weights: Mapping[str, torch.Tensor]
    new: dict[Node, Node] = field(default_factory=dict)
    values: dict[Node, Node] = field(default_factory=dict)  # at the border: others use them
    made: list[Node] = field(default_factory=list)

    def visit(self, node: Node) -> None:
        """Make a node again if it holds units, or reads what does."""
        units = self.flow.units
        if node.target is operator.getitem:
            if node.args[0] not in self.new:
                return
        elif node not in units and not self._touches(node):
            return
        g = GraphBuilder(self.graph, node, made_by=self.rule)
        self.new[node] = self._again(node, g)
        self.made += g.made
        if node not in units and not isinstance(node.meta["val"], list | tuple):
            self.values[node] = self.new[node]

    def _touches(self, node: Node) -> bool:
        """Whether a node reads units, or gives them as one of several results."""
        units = self.flow.units
        if node.target is torch.ops.txgraph.linears.default and any(result in units for result in node.users):
            return True
        return any(source in units and source.op != "get_attr" for source in node.all_input_nodes)

    def _again(self, node: Node, g: GraphBuilder) -> Node:
        if linear_of(node) is node or node.target is torch.ops.txgraph.linears.default:
            return self._linear(node, g)
        if node.target in PIECES:
            return self._pieces(node, g)
        target: Any = node.target
        if node.target is operator.getitem:
            return g.call(target, self.new[node.args[0]], node.args[1])  # type: ignore[index]  # made before
        args, kwargs = torch.fx.map_arg((node.args, node.kwargs), lambda n: self._operand(n, g))
        if node.target in (*RESHAPES, _aten.expand.default):
            units = self.flow.units[node]
            sizes: list[Any] = list(args[1])  # type: ignore[arg-type]  # schema: sizes
            sizes[units.axis] = self._size(sizes[units.axis], shape_of(node)[units.axis], units)
            args = (args[0], sizes, *args[2:])
        elif node.target in (_aten.slice.Tensor, _aten.narrow.default):
            args = self._slice(node, args)
        elif node.target in ATTENTION:
            args, kwargs = self._with_mask(node, args, kwargs, g)
        return g.call(target, *args, **kwargs)

    def _operand(self, operand: Node, g: GraphBuilder) -> Node:
        units = self.flow.units.get(operand)
        if operand.op != "get_attr" or units is None:
            return self.new.get(operand, operand)
        if operand not in self.new:
            self.new[operand] = self._selected(operand, {units.axis: units}, g)
        return self.new[operand]

    def _linear(self, node: Node, g: GraphBuilder) -> Node:
        named = dict(arguments(node))
        source = named["input"]
        columns = self.flow.units.get(source)
        columns = columns if (source, node) in self.flow.read else None
        made = {weight_at(value): self.flow.units[value] for value in results_of(node) if value in self.flow.made}
        pairs = [self._weight(each, source, made.get(each.at), columns, g) for each in weights_of(node)]
        held: Any = [*zip(*pairs, strict=True)]
        names, held = (("weight", "bias"), pairs[0]) if "weight" in named else (("weights", "biases"), map(list, held))
        named |= {"input": self.new.get(source, source), **dict(zip(names, held, strict=True))}
        return g.call(node.target, *named.values())  # type: ignore[arg-type]  # an operator

    def _weight(
        self, weight: Weight, source: Node, rows: Units | None, columns: Units | None, g: GraphBuilder
    ) -> tuple[Any, Any]:
        """The new weight as the linear reads it, and the new bias."""
        along = {0: rows, 1: columns}
        if weight.transposed:
            along = {1: rows, 0: columns}
        held = self._selected(weight.constant, along, g, weight.transposed)
        if weight.transposed:
            held = g.aten.transpose.int(held, 0, 1)
        bias = weight.bias
        if bias is not None and rows is not None:
            bias = self._selected(bias, {0: rows}, g)
        constants = self.constants.get(source.name)
        if columns is None or constants is None:
            return held, bias
        share = share_of(weight.values(self.graph), columns, self.kept, constants)
        if not bool(share.any()):
            return held, bias
        old = bias if bias is None else self.graph.constants[str(bias.target)].detach().double()
        if rows is not None:
            share = share[_tiled(rows.kept(self.kept), len(share))]
        names = [str(n.target) for n in (weight.bias, weight.constant) if n is not None]
        total = (share if old is None else old + share).to(weight.values(self.graph).dtype)
        return held, g.constant(f"{names[0]}_shifted", total, names)

    def _selected(
        self, constant: Node, along: Mapping[int, Units | None], g: GraphBuilder, transposed: bool = False
    ) -> Node:
        """A constant without the places that go, along some axes."""
        name = str(constant.target)
        values = self.graph.constants[name].detach()
        for axis, units in along.items():
            if units is not None:
                places = _tiled(units.kept(self.kept), values.shape[axis]).nonzero().flatten()
                values = values.index_select(axis, places.to(values.device))
        if name in self.weights:
            values = (self.weights[name].t() if transposed else self.weights[name]).to(values.dtype).contiguous()
        if all(units is None for units in along.values()):
            return constant
        return g.constant(f"{name}_kept", values, [name])

    def _pieces(self, node: Node, g: GraphBuilder) -> Node:
        source, axis = arguments(node)["self"], arguments(node)["dim"]
        new, units = self.new[source], self.flow.units[source]
        if node.target is _aten.unbind.int or axis % len(shape_of(source)) != units.axis:
            return g.call(node.target, new, *node.args[1:], **node.kwargs)  # type: ignore[arg-type]  # an operator
        stays = units.kept(self.kept)
        sizes = [int(piece.shape[units.axis]) for piece in node.meta["val"]]
        counts = [int(stays_of.sum()) for stays_of in stays.split(sizes)]
        return g.aten.split_with_sizes.default(new, counts, units.axis)

    def _slice(self, node: Node, args: Sequence[Any]) -> tuple[Any, ...]:
        source, axis, first, count = offset_of(node)
        units = self.flow.units[source]
        if axis != units.axis:
            return tuple(args)
        stays = units.kept(self.kept)
        start, length = int(stays[:first].sum()), int(stays[first : first + count].sum())
        return (args[0], axis, start, start + length if node.target is _aten.slice.Tensor else length)

    def _with_mask(self, node: Node, args: Any, kwargs: Any, g: GraphBuilder) -> tuple[Any, Any]:
        """The mask of the heads that stay, where heads have masks of their own."""
        mask = arguments(node).get("attn_mask")
        shape = () if mask is None else shape_of(mask)
        if mask is None or len(shape) < 3 or shape[-3] == 1:
            return args, kwargs
        query = arguments(node)["query"]
        units = self.flow.units[query]
        places = units.kept(self.kept).nonzero().flatten()
        assert units.axis == head_axis(node, query), "heads"
        if self.graph.frozen(mask) is not None:
            selected = self._selected(mask, {len(shape) - 3: units}, g)
        else:
            held = g.constant("kept_heads", places.to(mask.meta["val"].device), [])
            selected = g.aten.index_select.default(mask, len(shape) - 3, held)
        return torch.fx.map_arg((args, kwargs), lambda n: selected if n is mask else n)

    def _size(self, given: Any, size: int | torch.SymInt, units: Units) -> Any:
        """The argument of a reshape for the axis of the units."""
        if not isinstance(given, int) or given == -1 or not isinstance(size, int):
            return -1
        return size // len(units.labels) * int(units.kept(self.kept).sum())


def weight_at(value: Node) -> int:
    """Which of the weights of its linear a result was computed with."""
    return int(value.args[1]) if value.target is operator.getitem else 0  # type: ignore[arg-type]


def _tiled(places: torch.Tensor, size: int) -> torch.Tensor:
    """What is said of the places of an axis of ``size``, of which each block of ``len(places)`` is alike."""
    return places.repeat(size // len(places))
