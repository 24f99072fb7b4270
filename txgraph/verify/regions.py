"""What a rewrite took out of a graph and what it put in: two small graphs of the same inputs.

Rewrites that build on one another's results are one region: nothing between them is left to compare.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import networkx as nx
from torch.fx import Node

from txgraph.ir import Graph, extract
from txgraph.rewrite import Rewrite

_REACH = 64  # nodes that are looked at to find how an input of the old part depends on one of the new part


@dataclass(frozen=True)
class Region:
    """The places of some rewrites, before and after.

    Attributes:
        rewrites: in the order in which they were made.
        left, right: what computed the values before, and after.
        values: names of these values in the graph before the pass.
        left_inputs, right_inputs: names, in that same graph, of what they are computed from.
    """

    rewrites: tuple[Rewrite, ...]
    left: Graph
    right: Graph
    values: tuple[str, ...]
    left_inputs: tuple[str, ...]
    right_inputs: tuple[str, ...]

    @property
    def boundary(self) -> frozenset[str]:
        """All values of the graph before the pass that the region is compared on."""
        return frozenset((*self.values, *self.left_inputs, *self.right_inputs))


def changed_regions(before: Graph, after: Graph, rewrites: Sequence[Rewrite]) -> list[Region]:
    """The regions of a pass's rewrites; rewrites that name no values, or whose values are gone, are in none."""
    change = _Change(before, after, rewrites)
    return [region for group in change.groups() if (region := change.region(group)) is not None]


@dataclass(frozen=True)
class _Change:
    before: Graph
    after: Graph
    rewrites: Sequence[Rewrite]

    @cached_property
    def old(self) -> Mapping[str, Node]:
        return {node.name: node for node in self.before.nodes}

    @cached_property
    def new(self) -> Mapping[str, Node]:
        return {node.name: node for node in self.after.nodes}

    @cached_property
    def image(self) -> Mapping[str, str]:
        """The value that stands in the place of each one replaced, after all rewrites."""
        direct = {old: new for rewrite in self.rewrites for old, new in rewrite.values}
        final = {}
        for old, new in direct.items():
            while direct.get(new, new) != new:
                new = direct[new]
            final[old] = new
        return final

    @cached_property
    def origin(self) -> Mapping[str, str]:
        """The value before the pass that a value after it equals, up to rounding."""
        replaced = {new: old for old, new in self.image.items() if old in self.old}
        return {**replaced, **{name: name for name in self.new if name in self.old}}

    @cached_property
    def maker(self) -> Mapping[str, int]:
        return {name: at for at, rewrite in enumerate(self.rewrites) for name in rewrite.made}

    def groups(self) -> list[list[Rewrite]]:
        """Rewrites that must be looked at together, in their order."""
        graph = nx.Graph()
        graph.add_nodes_from(range(len(self.rewrites)))
        for at, rewrite in enumerate(self.rewrites):
            built_on = [*rewrite.removed, *(old for old, _ in rewrite.values)]
            built_on += [s.name for s in _sources(self._present(rewrite.made)) if s.name not in self.origin]
            graph.add_edges_from((at, self.maker[name]) for name in built_on if name in self.maker)
        parts = sorted(sorted(part) for part in nx.connected_components(graph))
        return [[self.rewrites[at] for at in part] for part in parts]

    def region(self, group: Sequence[Rewrite]) -> Region | None:
        values = [old for rewrite in group for old, _ in rewrite.values if old in self.old]
        values = [old for old in dict.fromkeys(values) if self.image[old] in self.new]
        if not values:
            return None
        results = [self.image[old] for old in values]
        made = {name for rewrite in group for name in rewrite.made if name in self.new}
        for name in results:  # one that stayed, and is computed from what was made
            made |= _way(self.new[name], made) if name not in made else set()
        taken = [*_sources(self._present(made)), *(self.new[name] for name in results if name not in made)]
        read = {node.name: self.origin[node.name] for node in taken if node.op != "get_attr"}
        gone = {name for rewrite in group for name in rewrite.removed if name in self.old} | set(values)
        gone |= self._between(gone, set(read.values()) - gone)
        left_inputs = [s.name for s in _sources(self.old[name] for name in gone) if s.op != "get_attr"]
        constants = {node.name for node in taken if node.op == "get_attr"}
        return Region(
            tuple(group),
            extract(self.before, gone, left_inputs, values),
            extract(self.after, made | constants, list(read), results),
            tuple(values),
            tuple(left_inputs),
            tuple(read.values()),
        )

    def _present(self, names: Iterable[str]) -> list[Node]:
        return [self.new[name] for name in names if name in self.new]

    def _between(self, gone: set[str], read: set[str]) -> set[str]:
        """Nodes that lead from what the new part reads to the old part: the old part then reads the same."""
        found: set[str] = set()
        for source in _sources(self.old[name] for name in gone):
            way = _way(source, read) if source.name not in read else set()
            found |= way
        return found


def _sources(nodes: Iterable[Node]) -> list[Node]:
    """What nodes read from outside of themselves."""
    nodes = list(nodes)
    inside = {node.name for node in nodes}
    return list(dict.fromkeys(s for node in nodes for s in node.all_input_nodes if s.name not in inside))


def _way(node: Node, ends: set[str]) -> set[str]:
    """The nodes from ``ends``, which are not among them, to ``node``; none if there is no short way."""
    seen: list[Node] = [node]
    for each in seen:
        if len(seen) > _REACH:
            return set()
        if each.op == "call_function":
            seen += [s for s in each.all_input_nodes if s.name not in ends and s not in seen]
    on_way: set[str] = set()
    for each in sorted(seen):
        if any(s.name in ends or s.name in on_way for s in each.all_input_nodes):
            on_way.add(each.name)
    return on_way
