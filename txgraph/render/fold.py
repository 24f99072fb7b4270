"""Find repeated layers, so that each is drawn once.

Instances of a module list (``encoder.layer.0``, ``encoder.layer.1``, ...) and repeated calls of one module are
folded when they follow each other and are equal, in the graph before and in the one after: the same operators
on the same types, connected in the same way. Periods longer than one (``local, global, local, global``) fold, too.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field

import networkx as nx

from txgraph.render.view import Op, Path, View

_CALL = re.compile(r"(.+)@(\d+)")


@dataclass(frozen=True)
class Repeat:
    """Modules that are drawn once: the first stands for all.

    Attributes:
        members: last component of each module's path, in order.
    """

    members: tuple[str, ...]

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.members)


@dataclass
class Folding:
    """Which node stands for which in one drawing of several graphs.

    Attributes:
        drawn: for each graph, the node that stands for a node. paths: where nodes that all layers share are drawn.
        repeats: the drawn modules that stand for several.
    """

    drawn: list[dict[str, str]]
    paths: list[dict[str, Path]]
    repeats: dict[Path, Repeat] = field(default_factory=dict)

    def representatives(self, at: int) -> set[str]:
        """The drawn nodes of one graph."""
        return set(self.drawn[at].values())

    def instances(self, at: int) -> dict[str, list[str]]:
        """For each drawn node of one graph the nodes that it stands for."""
        instances: dict[str, list[str]] = defaultdict(list)
        for name, drawn in self.drawn[at].items():
            instances[drawn].append(name)
        return instances


def fold(views: Sequence[View]) -> Folding:
    """Fold the repeated layers of a model; ``views`` are stages of its graph, the first one as captured."""
    folding = Folding(
        [{name: name for name in view} for view in views],
        [{name: op.path for name, op in view.items()} for view in views],
    )
    done: set[tuple[Path, str]] = set()
    while family := _next_family(folding, done):
        done.add(family)
        _fold_family(views, folding, *family)
    return folding


def _next_family(folding: Folding, done: set[tuple[Path, str]]) -> tuple[Path, str] | None:
    """The outermost module list or repeatedly called module that is not folded yet."""
    members: dict[tuple[Path, str], set[str]] = defaultdict(set)
    for at, paths in enumerate(folding.paths):
        drawn = folding.representatives(at)
        for path in {paths[name] for name in drawn}:
            for depth, part in enumerate(path):
                members[(path[:depth], _family(part))].add(part)
    families = [f for f, parts in members.items() if len(parts) > 1 and f not in done]
    return min(families, key=lambda f: (len(f[0]), f), default=None)


def _family(part: str) -> str:
    """``[]`` for members of a module list, else the name of the module that is called again."""
    call = _CALL.fullmatch(part)
    return call[1] if call else "[]" if part.isdecimal() else part


def _fold_family(views: Sequence[View], folding: Folding, prefix: Path, name: str) -> None:
    instances = [_instances(folding, at, prefix, name) for at in range(len(views))]
    for at, view in enumerate(views):
        for shared in _shared(view, instances[at]):
            folding.paths[at][shared] = prefix
            for names in instances[at].values():
                if shared in names:
                    names.remove(shared)
    order = list(instances[0])
    forms: list[Hashable] = []
    bodies: list[list[list[str]]] = []
    for member in order:
        depth = len(prefix) + 1
        canonical = [_canonical(view, each.get(member, []), depth) for view, each in zip(views, instances, strict=True)]
        bodies.append([names for names, _ in canonical])
        forms.append(tuple(form for _, form in canonical))
    adjacent = _adjacent(folding, instances[0])
    for start, period, count in _runs(forms, adjacent):
        for offset in range(period):
            first = start + offset
            same = range(first, start + period * count, period)
            folding.repeats[(*prefix, order[first])] = Repeat(tuple(order[i] for i in same))
            for other in same:
                for at in range(len(views)):
                    stands = dict(zip(bodies[other][at], bodies[first][at], strict=True))
                    folding.drawn[at].update(stands)


def _instances(folding: Folding, at: int, prefix: Path, name: str) -> dict[str, list[str]]:
    """Names of the drawn nodes in each member of a family, in order."""
    instances: dict[str, list[str]] = defaultdict(list)
    depth = len(prefix)
    for node, path in folding.paths[at].items():
        if folding.drawn[at][node] == node and len(path) > depth and path[:depth] == prefix:
            if _family(path[depth]) == name:
                instances[path[depth]].append(node)
    return dict(instances)


def _shared(view: View, instances: dict[str, list[str]]) -> set[str]:
    """Nodes of one layer whose value several others use (a mask, a position bias), and what only leads to them."""
    owner = {name: member for member, names in instances.items() for name in names}
    users: dict[str, set[str]] = defaultdict(set)
    for op in view.values():
        for arrow in op.arrows:
            users[arrow.source].add(op.name)
    shared: set[str] = set()
    for name in reversed(owner):
        elsewhere = {owner[u] for u in users[name] if u in owner} - {owner[name]}
        if len(elsewhere) > 1 or (users[name] and users[name] <= shared):
            shared.add(name)
    return shared


def _canonical(view: View, names: list[str], depth: int) -> tuple[list[str], Hashable]:
    """The nodes in an order that depends on structure only, and a form that is equal for equal structures."""
    body: nx.DiGraph = nx.DiGraph()
    inside = set(names)
    for name in names:
        op = view[name]
        body.add_node(name, label=repr(_label(op, depth)))
        for position, arrow in enumerate(op.arrows):
            if arrow.source in inside:
                before = body.edges.get((arrow.source, name), {}).get("label", "")
                body.add_edge(arrow.source, name, label=f"{before},{position}")
    hashes = nx.weisfeiler_lehman_subgraph_hashes(body, node_attr="label", edge_attr="label", iterations=2)
    place = {name: i for i, name in enumerate(names)}
    order = list(nx.lexicographical_topological_sort(body, key=lambda n: (hashes[n], place[n])))
    index = {name: i for i, name in enumerate(order)}
    form = tuple(
        (_label(view[n], depth), tuple((index.get(a.source, -1), a.type) for a in view[n].arrows)) for n in order
    )
    return order, form


def _label(op: Op, depth: int) -> Hashable:
    constants = tuple((c.type, c.shape) for c in op.constants)
    return (op.op, op.type, op.path[depth:], constants, op.literals)


def _adjacent(folding: Folding, instances: dict[str, list[str]]) -> list[bool]:
    """For each member whether it directly follows the one before it, with no other node in between."""
    place = {name: i for i, name in enumerate(n for n in folding.paths[0] if folding.drawn[0][n] == n)}
    spans = [(min(map(place.__getitem__, names)), max(map(place.__getitem__, names))) for names in instances.values() if names]
    raise NotImplementedError(spans)


def _runs(forms: Sequence[Hashable], adjacent: Sequence[bool]) -> Iterable[tuple[int, int, int]]:
    """Start, period and count of the longest repetitions, from left to right."""
    at = 0
    while at < len(forms):
        best = (0, 0)
        for period in range(1, (len(forms) - at) // 2 + 1):
            end = at + period
            while end < len(forms) and forms[end] == forms[end - period]:
                end += 1
            if (end - at) // period > 1:
                best = max(best, ((end - at) // period * period, -period))
        length, period = best[0], -best[1]
        if length:
            yield at, period, length // period
        at += max(length, 1)
