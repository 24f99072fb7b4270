"""Find repeated layers by their structure, and take one of them out as a graph of its own.

The copies of a region form a loop, ``hidden = layer(hidden, shared, own)``: each takes its hidden state from the copy
before it, and all else from outside of the loop. Three steps find them:

1. The longest ways through the graph are laid out as paths. Layers stand on a path one after the other, so its
   operators repeat themselves.
2. The path is cut once a period, where the fewest values cross. A copy is what its cut needs and the cut before it
   does not.
3. The copies are compared node by node, backwards from their cuts. This decides; the path is only a hint.

The names of nodes, modules and constants, and the values of constants, play no part.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from heapq import heapify, heappop, heappush
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.fx import Node
from torch.fx.node import map_aggregate

from txgraph.ir.graph import Graph
from txgraph.ir.node import provenance_of, type_of

_Column = tuple[int, ...]  # one node of each copy; they correspond


@dataclass(frozen=True)
class Region:
    """A piece of the graph that occurs several times, one copy after the other.

    Attributes:
        instances: names of the nodes of each copy, in an order in which they can be computed;
            ``instances[k][j]`` corresponds to ``instances[0][j]``.
        inputs: for each copy, what it takes from outside, constants included. An input is the same value in all
            copies, or a value of the copy's own that needs no other copy (a constant, its part of a joint product),
            or the same output of the copy before.
        outputs: for each copy, the values that are used outside of it in at least one copy.
    """

    instances: tuple[tuple[str, ...], ...]
    inputs: tuple[tuple[str, ...], ...]
    outputs: tuple[tuple[str, ...], ...]

    @property
    def count(self) -> int:
        """How many copies there are."""
        return len(self.instances)

    def module(self, graph: Graph, instance: int) -> str:
        """The path of the innermost module that holds a copy, for display; empty if it is the model itself."""
        names = set(self.instances[instance])
        paths = {provenance_of(node).module for node in graph.nodes if node.name in names} - {""}
        common: list[str] = []
        for parts in zip(*(path.split(".") for path in paths), strict=False):
            if len(set(parts)) > 1:
                break
            common.append(parts[0])
        return ".".join(common)


def find_regions(graph: Graph) -> tuple[Region, ...]:
    """The repeated layers of a graph, in its order.

    Regions are disjoint, and a copy has at least two operators. Of several ways to see a repetition the one is taken
    that leaves the fewest nodes to look at: as many copies of the whole layer as there are. Layers that alternate
    are copies of the period.
    """
    flow = _Flow(graph)
    found: list[_Copies] = []
    for nodes in _longest_ways(flow):
        found += _Path(flow, nodes).take()
    found.sort(key=lambda copies: copies.roles[0])
    return tuple(_region(flow, copies) for copies in found if len(copies.roles) > 1)


def outline(graph: Graph, region: Region, instance: int = 0) -> Graph:
    """One copy as a graph of its own, with the same names; all its inputs, constants too, are placeholders.

    With the inputs of another copy it computes that copy.
    """
    nodes = {node.name: node for node in graph.nodes}
    fx = torch.fx.Graph()
    made: dict[Node, Node] = {}
    for name in region.inputs[instance]:
        made[nodes[name]] = fx.placeholder(name)
        made[nodes[name]].meta["val"] = nodes[name].meta["val"]
    for name in region.instances[instance]:
        made[nodes[name]] = fx.node_copy(nodes[name], made.__getitem__)
        made[nodes[name]].meta = dict(nodes[name].meta)
    for source, copy in made.items():
        copy.name = source.name  # fx renames a node called like a builtin, such as `input`
    fx.output(tuple(made[nodes[name]] for name in region.outputs[instance]))
    return Graph(fx, symbols=graph.symbols, ranges=graph.ranges)


# -- the graph in numbers ------------------------------------------------------------------------------------------


class _Flow:
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
        return self.nodes[n].op == "call_function"

    def is_constant(self, n: int) -> bool:
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


def _sources(flow: _Flow, column: _Column) -> Iterator[_Column]:
    """What corresponding nodes take, argument by argument."""
    return zip(*(flow.arguments[n] for n in column), strict=True)


def _region(flow: _Flow, copies: _Copies) -> Region:
    members = [set(copy) for copy in zip(*copies.roles, strict=True)]
    used_outside = [
        role
        for role in copies.roles
        if not all(own.issuperset(flow.users[n]) for n, own in zip(role, members, strict=True))
    ]

    def names(columns: Sequence[_Column]) -> tuple[tuple[str, ...], ...]:
        return tuple(tuple(flow.nodes[column[k]].name for column in columns) for k in range(copies.count))

    return Region(names(copies.roles), names(copies.inputs), names(used_outside))


# -- paths ---------------------------------------------------------------------------------------------------------


def _longest_ways(flow: _Flow) -> list[list[int]]:
    """Paths on which every operator stands once, the longest first.

    An operator follows its deepest argument, and of the users that would follow it the one that leads farthest does.
    """
    size = len(flow.nodes)
    before, depth = [-1] * size, [0] * size
    after, height = [-1] * size, [0] * size
    calls = [n for n in range(size) if flow.is_call(n)]
    for n in calls:
        before[n] = max(filter(flow.is_call, flow.arguments[n]), key=depth.__getitem__, default=-1)
        depth[n] = 1 + (depth[before[n]] if before[n] >= 0 else 0)
    for n in reversed(calls):
        if before[n] >= 0 and height[n] >= height[before[n]]:
            after[before[n]], height[before[n]] = n, height[n] + 1
    paths = []
    for n in calls:
        if before[n] < 0 or after[before[n]] != n:
            path = [n]
            while after[path[-1]] >= 0:
                path.append(after[path[-1]])
            paths.append(path)
    return sorted(paths, key=len, reverse=True)


class _Stretch(NamedTuple):
    """A part of a path that comes again one period later, as far as labels say."""

    period: int
    start: int
    length: int


class _Path:
    """A way through the graph, on which layers stand one after the other."""

    def __init__(self, flow: _Flow, nodes: list[int]) -> None:
        self.flow = flow
        self.nodes = nodes
        self._labels = np.array([-1 - place if n in flow.taken else flow.labels[n] for place, n in enumerate(nodes)])

    @cached_property
    def needed(self) -> list[int]:
        """For each node of the graph the first place on the path that needs it; past the end if there is none."""
        needed = [len(self.nodes)] * len(self.flow.nodes)
        for place, end in enumerate(self.nodes):
            pending = [end]
            while pending:
                n = pending.pop()
                if needed[n] > place:
                    needed[n] = place
                    pending += self.flow.arguments[n]
        return needed

    @cached_property
    def reached(self) -> list[int]:
        """For each node of the graph the last place on the path that it needs; -1 if there is none."""
        reached = [-1] * len(self.flow.nodes)
        for place, n in enumerate(self.nodes):
            reached[n] = place
        for n, sources in enumerate(self.flow.arguments):
            reached[n] = max([reached[n], *(reached[a] for a in sources)])
        return reached

    @cached_property
    def _lifetimes(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The places at which each value is first needed, and its last user is."""
        past, last = len(self.nodes), list(self.needed)
        for n, sources in enumerate(self.flow.arguments):
            for a in sources if self.needed[n] < past else ():
                last[a] = max(last[a], self.needed[n])
        return np.array(self.needed), np.array(last)

    def take(self) -> list[_Copies]:
        """The regions on this path, always the best of what is left; takes their nodes."""
        found = []
        stretches = [s for period in range(1, len(self.nodes)) for s in self._stretches(period, 0, len(self.nodes))]
        longest_first = [(-stretch.length, stretch) for stretch in stretches]
        heapify(longest_first)
        while longest_first:
            best, saved, again = list[_Copies](), 0, []
            while longest_first and -longest_first[0][0] > saved:  # a shorter one has no more to give
                _, stretch = heappop(longest_first)
                left = self._stretches(stretch.period, stretch.start, stretch.start + stretch.length + stretch.period)
                if left != [stretch]:  # a region took a part of it
                    for part in left:
                        heappush(longest_first, (-part.length, part))
                elif regions := min(self._regions(stretch), key=_rank, default=[]):
                    again.append(stretch)
                    if not best or _rank(regions) < _rank(best):
                        best, saved = regions, stretch.period * sum(each.count - 1 for each in regions)
            found += best
            self._take(best)
            for stretch in again:
                heappush(longest_first, (-stretch.length, stretch))
        return found

    def _take(self, regions: list[_Copies]) -> None:
        self.flow.taken.update(n for copies in regions for role in copies.roles for n in role)
        for place, n in enumerate(self.nodes):
            if n in self.flow.taken:
                self._labels[place] = -1 - place

    def _stretches(self, period: int, start: int, stop: int) -> list[_Stretch]:
        """The stretches of a period in this part of the path.

        They may be shorter than the period: the path may have come to the first layer from the side.
        """
        labels = self._labels[start:stop]
        same = np.zeros(len(labels) - period + 2, dtype=np.int8)
        same[1:-1] = labels[period:] == labels[:-period]
        change = np.diff(same)
        runs = zip(np.flatnonzero(change > 0).tolist(), np.flatnonzero(change < 0).tolist(), strict=True)
        return [_Stretch(period, start + a, b - a) for a, b in runs if 4 * (b - a) >= period]

    def _regions(self, stretch: _Stretch) -> Iterator[list[_Copies]]:
        """The copies on a stretch, for each cut at which the fewest values go from one to the next."""
        period, start, length = stretch
        birth, death = self._lifetimes
        crossing = (birth < death) & (death - birth < period)  # what is used for longer is shared, such as a mask
        births = np.bincount(birth[crossing], minlength=len(self.nodes))
        deaths = np.bincount(death[crossing], minlength=len(self.nodes))
        last_period = max(start, start + length - period)
        width = np.cumsum(births - deaths)[last_period : start + length]
        for cut in (last_period + np.flatnonzero(width == width.min())).tolist():
            yield list(_equal_copies(self, range(start + (cut - start) % period, cut + period + 1, period)))


# -- comparison ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Copies:
    """Equal copies of one piece of the graph.

    Attributes:
        roles: their nodes, in topological order.
        inputs: what these take from outside. places: how many arguments of a copy that are.
    """

    roles: list[_Column]
    inputs: list[_Column]
    places: int

    @property
    def count(self) -> int:
        return len(self.roles[0])


def _rank(regions: list[_Copies]) -> tuple[int, ...]:
    """The smallest is best: most nodes that need no second look, fewest inputs, most places that take them, first.

    The places tell where a residual starts: of two cuts with one value each, the one with the more users.
    """
    saved = sum(len(copies.roles) * (copies.count - 1) for copies in regions)
    inputs, places = sum(len(copies.inputs) for copies in regions), sum(copies.places for copies in regions)
    return -saved, inputs, -places, *(copies.roles[0][0] for copies in regions)


def _equal_copies(path: _Path, ends: Sequence[int], after: int = -1) -> Iterator[_Copies]:
    """The copies that end at these places of the path; where neighbours differ, the runs of equal ones.

    All come after a place of the path.
    """
    if len(ends) < 2:
        return
    comparison = _Comparison(path, ends, after)
    if not comparison.different:
        copies = comparison.copies()
        if comparison.is_loop(copies):
            yield copies
        return
    bounds = [0, *(k + 1 for k in sorted(comparison.different)), len(ends)]
    for first, last in pairwise(bounds):
        yield from _equal_copies(path, ends[first:last], ends[first - 1] if first else after)


class _Comparison:
    """Copies side by side, followed backwards from their ends.

    Attributes:
        different: each ``k`` such that copies ``k`` and ``k + 1`` are not equal.
    """

    def __init__(self, path: _Path, ends: Sequence[int], after: int) -> None:
        self._path, self._flow, self._ends = path, path.flow, ends
        self._cuts = [after, *ends]
        self._roles: dict[_Column, None] = {}
        self._place: dict[int, tuple[int, int]] = {}  # copy and number of the role
        self.different: set[int] = set()
        self._compare(tuple(path.nodes[end] for end in ends))

    def copies(self) -> _Copies:
        """The copies, with the results that no copy needs itself but all have (the state of a cache)."""
        for role in (roles := list(self._roles)):
            for users in self._side_users(role):
                if all(c in self._roles or self._is_input(c) for c in _sources(self._flow, users)):
                    self._add(users)
                    roles.append(users)
        roles.sort()
        inputs = [c for role in roles for c in _sources(self._flow, role) if c not in self._roles]
        return _Copies(roles, list(dict.fromkeys(inputs)), len(inputs))

    def is_loop(self, copies: _Copies) -> bool:
        """Whether nothing that a copy takes needs a copy, other than what the one before hands on."""
        places = [n for c in (*copies.roles, *copies.inputs) for n in c]
        needs = set(self._place)
        for n in range(min(places), max(places) + 1):
            if not needs.isdisjoint(self._flow.arguments[n]):
                needs.add(n)
        return needs.isdisjoint(n for c in copies.inputs for n in (c[:1] if self._is_handed_on(c) else c))

    def _copy(self, n: int) -> int:
        """The copy that needs a node first; -1 before the first copy, and the number of copies past the last."""
        return bisect_left(self._cuts, self._path.needed[n]) - 1

    def _compare(self, column: _Column) -> None:
        """Find the roles that lead to a column, and where copies differ; ends early if no two are equal."""
        pending, seen = [column], set[_Column]()
        later, unfit = list[_Column](), list[_Column]()
        while pending and len(self.different) < len(self._ends) - 1:
            column = pending.pop()
            if column in seen:
                continue
            seen.add(column)
            if all(self._copy(n) == k for k, n in enumerate(column)) and self._is_operator(column):
                self._add(column)
                pending += _sources(self._flow, column)
            elif self._copy(column[1]) == 0:
                later.append(column)  # it may be handed on, if it turns out to be a role
            elif not self._is_input(column):
                unfit.append(column)
                self.different |= self._differences(column)
        unfit += (late := [column for column in later if not self._is_input(column)])
        self.different.update(*map(self._differences, late))
        if not self.different:  # no two are told apart by their use, but they are not the same value
            self.different.update(k for column in unfit for k, (a, b) in enumerate(pairwise(column)) if a != b)

    def _add(self, column: _Column) -> None:
        self._place |= {n: (k, len(self._roles)) for k, n in enumerate(column)}
        self._roles[column] = None

    def _is_operator(self, column: _Column) -> bool:
        """Whether these are equal operators, one for each copy and in no other role or region."""
        flow = self._flow
        return (
            len({flow.labels[n] for n in column}) == 1
            and len(set(column)) == len(column)
            and all(flow.is_call(n) and n not in self._place and n not in flow.taken for n in column)
        )

    def _is_input(self, column: _Column) -> bool:
        """Whether copies may take these from outside: shared, handed on, or the copy's own."""
        if len({self._flow.types[n] for n in column}) > 1:
            return False
        if len(set(column)) == 1 or all(map(self._flow.is_constant, column)):
            return True
        return self._is_handed_on(column) or self._is_own(column)

    def _is_handed_on(self, column: _Column) -> bool:
        """Whether every copy takes the same output of the copy before."""
        _, role = self._place.get(column[1], (0, -1))
        return all(self._place.get(n) == (k, role) for k, n in enumerate(column[1:]))

    def _is_own(self, column: _Column) -> bool:
        """Whether each takes a value that is not needed by other copies, and that can be computed before all copies."""
        unneeded = len(self._path.nodes)
        return all(self._path.reached[n] < self._ends[0] for n in column[1:]) and all(
            self._copy(user) == k or self._path.needed[user] == unneeded
            for k, n in enumerate(column)
            for user in self._flow.users[n]
        )

    def _differences(self, column: _Column) -> set[int]:
        """Where the use of a column that is no input differs from one copy to the next."""
        uses = [self._use(k, n) for k, n in enumerate(column)]
        if uses[1][0] == "handed on" and self._flow.types[column[0]] == self._flow.types[column[1]]:
            uses[0] = uses[1]  # no copy hands it on to the first one
        return {k for k in range(len(column) - 1) if column[k] != column[k + 1] and uses[k] != uses[k + 1]}

    def _use(self, k: int, n: int) -> tuple[str, int]:
        """What a value is to the copy that takes it."""
        if self._flow.is_constant(n):
            return "constant", self._flow.types[n]
        if self._copy(n) == k:
            return "inside", self._flow.labels[n]
        if self._copy(n) == k - 1:
            return "handed on", self._place.get(n, (k, -1))[1]
        return "outside", n

    def _side_users(self, role: _Column) -> list[_Column]:
        """Equal operators that use a role, one for each copy, and that no copy needs."""
        found: dict[Hashable, list[tuple[int, int]]] = {}
        for k, n in enumerate(role):
            for user in self._flow.users[n]:
                if self._copy(user) == len(self._ends):
                    slots = tuple(slot for slot, a in enumerate(self._flow.arguments[user]) if a == n)
                    found.setdefault((self._flow.labels[user], slots), []).append((k, user))
        columns = [
            tuple(user for _, user in users) for users in found.values() if [k for k, _ in users] == [*range(len(role))]
        ]
        return [column for column in columns if self._is_operator(column)]
