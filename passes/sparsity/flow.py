"""Find all values that hold the same units, from one of them: up to the linears that make and that read them."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch.fx import Node

from txgraph.ir import Graph, op_name, type_of
from txgraph.passes.sparsity.linears import is_linear, linear_of, why_not_cut
from txgraph.passes.sparsity.rules import PIECES, RESHAPES, across, shape_of
from txgraph.passes.sparsity.units import Units
from txgraph.rewrite import Reject


@dataclass(frozen=True, eq=False)
class UnitFlow:
    """Where units are in a graph: a closed part of it, which can lose some of them without a change elsewhere.

    Attributes:
        count: how many units there are.
        units: of each value that holds them.
        made: the results of linears among these values, which rows of the weights make.
        read: the values among these that linears read with columns of their weights, and these linears.
    """

    count: int
    units: Mapping[Node, Units]
    made: tuple[Node, ...]
    read: tuple[tuple[Node, Node], ...]

    @property
    def readers(self) -> tuple[Node, ...]:
        """The linears behind which no units are left."""
        return tuple(dict.fromkeys(linear for _, linear in self.read))


def find_units(graph: Graph, count: int, start: Mapping[Node, Units]) -> UnitFlow | Reject:
    """Follow ``count`` units from the values in ``start``, backward and forward, until linears end them.

    Returns:
        what holds them; or why units cannot be taken out, and at which node.
    """
    known: dict[Node, Units] = {}
    pending = dict(start)
    while pending:
        value, units = pending.popitem()
        merged = known[value].merged(units) if value in known else units
        if merged is None:
            return Reject(f"%{value.name} joins a unit with another", value)
        if value in known and merged.labels.equal(known[value].labels):
            continue
        known[value] = merged
        refused = _why_not_held(graph, value, merged)
        if refused is not None:
            return refused
        for other, answer in _neighbours(value, merged):
            if isinstance(answer, str):
                return Reject(answer, other)
            if answer is not None:
                held = pending.get(other)
                joined = answer if held is None else held.merged(answer)
                if joined is None:
                    return Reject(f"%{other.name} joins a unit with another", other)
                pending[other] = joined
    order = {node: at for at, node in enumerate(graph.nodes)}
    known = {node: known[node] for node in sorted(known, key=order.__getitem__)}
    made = tuple(value for value in known if _ends(value, known[value]))
    read = tuple((value, user) for value in known for user in value.users if _reads(user, value, known[value]))
    return UnitFlow(count, known, made, read)


def results(user: Node) -> list[Node]:
    """The tensors that an operator gives: itself, or the pieces of a split."""
    return [n for n in user.users if n.target is operator.getitem] if user.target in PIECES else [user]


def _ends(value: Node, units: Units) -> bool:
    """Whether the units of a value are made by the rows of a weight."""
    return linear_of(value) is not None and units.axis == len(shape_of(value)) - 1


def _reads(user: Node, value: Node, units: Units) -> bool:
    """Whether the units of a value are read by the columns of a weight."""
    return is_linear(user) and user.args[0] is value and units.axis == len(shape_of(value)) - 1


def _neighbours(value: Node, units: Units) -> Iterator[tuple[Node, Units | str | None]]:
    """The values that must have units if ``value`` has, with these; or why they cannot."""
    if value.op == "get_attr":
        return
    if not _ends(value, units):
        source = value.args[0] if value.target is operator.getitem else value
        assert isinstance(source, Node), "schema: a list"
        for operand in source.all_input_nodes:
            if type_of(operand) is not None:
                yield operand, across(value, operand, units, forward=False)
    for user in value.users:
        if not _reads(user, value, units):
            for result in results(user):
                yield result, across(result, value, units, forward=True)


def _why_not_held(graph: Graph, value: Node, units: Units) -> Reject | None:
    """Why a value cannot lose units."""
    if value.op == "placeholder":
        return Reject(f"%{value.name} is an input of the graph", value)
    if value.op == "get_attr":
        frozen = graph.frozen(value)
        return Reject(f"{value.target} is changed by each call", value) if frozen is None else None
    if any(user.op == "output" for user in value.users):
        return Reject(f"%{value.name} is an output of the graph", value)
    linear = linear_of(value)
    ends = [linear] if linear is not None and _ends(value, units) else []
    for each in (*ends, *(user for user in value.users if _reads(user, value, units))):
        problem = why_not_cut(graph, each)
        if problem:
            return Reject(problem, each)
    if not value.all_input_nodes:
        return Reject(f"{op_name(value)} makes the units of nothing", value)
    if value.target in RESHAPES:
        sizes: list[int | Node] = value.args[1]  # type: ignore[assignment]  # schema: sizes
        others = (*sizes[: units.axis], *sizes[units.axis + 1 :])
        if isinstance(sizes[units.axis], Node) and -1 in others:
            return Reject("a reshape with -1 for another axis than that of the units", value)
    return None
