"""Find repeated layers, so that each is drawn once.

Instances of a module list (``encoder.layer.0``, ``encoder.layer.1``, ...) and repeated calls of one module are
folded when they follow each other and are equal, in the graph before and in the one after: the same operators
on the same types, connected in the same way. Periods longer than one (``local, global, local, global``) fold, too.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

import networkx as nx

from txgraph.render.view import Op, Path, View

_Family = tuple[Path, str]  # the path above, and the name of the repeated module or [] for a module list

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

    @property
    def text(self) -> str:
        """``0..11``, or ``0,2,4`` where others are between; the name alone of a module that is called again."""
        first, last = self.members[0], self.members[-1]
        if not last.isdecimal():
            return first
        if int(last) - int(first) == self.count - 1:
            return f"{first}..{last}"
        return ",".join(self.members) if self.count < 5 else f"{first},{self.members[1]},..,{last}"


@dataclass
class Folding:
    """Which node stands for which in one drawing of several graphs.

    Attributes:
        drawn: for each graph, the node that stands for a node.
        paths: for each graph, the module in which a node is drawn: what layers share stands outside of them.
        places: for each graph and node, the runs of layers it is in (by their first path), and where in the run.
        repeats: the drawn modules that stand for several.
    """

    drawn: list[dict[str, str]]
    paths: list[dict[str, Path]]
    places: list[dict[str, dict[Path, int]]]
    repeats: dict[Path, Repeat] = field(default_factory=dict)

    def is_inner(self, at: int, source: str, target: str) -> bool:
        """Whether an arrow is between or inside instances of a run, but for the inside of the first one."""
        ends = self.places[at].get(source, {}), self.places[at].get(target, {})
        return any(ends[0][run] or ends[1][run] for run in ends[0].keys() & ends[1].keys())

    def merge(self, at: int, stands: dict[str, str], run: Path, unit: int) -> None:
        """Let the values of ``stands`` stand for its keys, which are the nodes of one instance."""
        self.drawn[at] = {name: stands.get(drawn, drawn) for name, drawn in self.drawn[at].items()}
        for name in stands:
            self.places[at].setdefault(name, {})[run] = unit

    def representatives(self, at: int) -> set[str]:
        """The drawn nodes of one graph."""
        return set(self.drawn[at].values())

    def instances(self, at: int) -> dict[str, list[str]]:
        """For each drawn node of one graph the nodes that it stands for."""
        instances: dict[str, list[str]] = defaultdict(list)
        for name, drawn in self.drawn[at].items():
            instances[drawn].append(name)
        return instances


def unfolded(views: Sequence[View]) -> Folding:
    """Every node stands for itself."""
    return Folding(
        [{name: name for name in view} for view in views],
        [{name: op.path for name, op in view.items()} for view in views],
        [{} for _ in views],
    )


def fold(views: Sequence[View]) -> Folding:
    """Fold the repeated layers of a model; ``views`` are stages of its graph, the first one as captured."""
    folding = unfolded(views)
    done: set[_Family] = set()
    while family := _next_family(folding, done):
        done.add(family)
        _fold_family(views, folding, *family)
    return folding


def _next_family(folding: Folding, done: set[_Family]) -> _Family | None:
    """The outermost module list or repeatedly called module that is not folded yet."""
    members: dict[_Family, set[str]] = defaultdict(set)
    for at, paths in enumerate(folding.paths):
        for path in {paths[name] for name in folding.representatives(at)}:
            for depth, part in enumerate(path):
                for name in _families(part):
                    members[(path[:depth], name)].add(part)
    families = [f for f, parts in members.items() if len(parts) > 1 and f not in done]
    return min(families, key=lambda f: (len(f[0]), f), default=None)


def _families(part: str) -> tuple[str, ...]:
    """``[]`` for a member of a module list; the name of the module, of which ``name@1`` is another call."""
    call = _CALL.fullmatch(part)
    return (call[1],) if call else ("[]", part) if part.isdecimal() else (part,)


def _fold_family(views: Sequence[View], folding: Folding, prefix: Path, name: str) -> None:
    members = [_members(folding, at, prefix, name) for at in range(len(views))]
    kept = []  # what only the members need; what they share is drawn outside of them
    for view, each in zip(views, members, strict=True):
        shared = _shared(view, each)
        kept.append({m: own for m, names in each.items() if (own := [n for n in names if n not in shared])})
    order = list(kept[0])
    bodies: list[list[list[str]]] = []
    forms: list[Hashable] = []
    for member in order:
        both = [_canonical(v, k.get(member, []), len(prefix) + 1) for v, k in zip(views, kept, strict=True)]
        bodies.append([names for names, _ in both])
        forms.append(tuple(form for _, form in both))
    runs = _runs(forms, _follows(views[0], folding.drawn[0], members[0], kept[0], chained=name != "[]"))
    for start, period, count in runs:
        for first in range(start, start + period):
            same = range(first, start + period * count, period)
            folding.repeats[(*prefix, order[first])] = Repeat(tuple(order[i] for i in same))
            for unit, other in enumerate(same):
                for at in range(len(views)):
                    stands = dict(zip(bodies[other][at], bodies[first][at], strict=True))
                    folding.merge(at, stands, (*prefix, order[start]), unit)
    if runs:
        for paths, all_names, rest in zip(folding.paths, members, kept, strict=True):
            paths |= dict.fromkeys(_names(all_names) - _names(rest), prefix)


def _members(folding: Folding, at: int, prefix: Path, name: str) -> dict[str, list[str]]:
    """Names of the drawn nodes of each member of a family, in order."""
    members: dict[str, list[str]] = defaultdict(list)
    depth = len(prefix)
    for node, path in folding.paths[at].items():
        inside = len(path) > depth and path[:depth] == prefix and name in _families(path[depth])
        if inside and folding.drawn[at][node] == node:
            members[path[depth]].append(node)
    return dict(members)


def _names(members: dict[str, list[str]]) -> set[str]:
    return {name for names in members.values() for name in names}


def _shared(view: View, members: dict[str, list[str]]) -> set[str]:
    """Nodes of one layer whose value several others use (a mask, a position bias), and what only leads to them."""
    owner = {name: member for member, names in members.items() for name in names}
    users: dict[str, set[str]] = defaultdict(set)
    for op in view.values():
        for arrow in op.arrows:
            users[arrow.source].add(op.name)
    shared: set[str] = set()
    for name in reversed(view):
        if name in owner:
            elsewhere = {owner[u] for u in users[name] if u in owner} - {owner[name]}
            if len(elsewhere) > 1 or (users[name] and users[name] <= shared):
                shared.add(name)
    return shared


def _canonical(view: View, names: list[str], depth: int) -> tuple[list[str], Hashable]:
    """The nodes in an order that depends on structure only, and a form that is equal for equal structures."""
    body: nx.DiGraph = nx.DiGraph()
    for name in names:
        body.add_node(name, label=ascii(_label(view[name], depth)))
    for name in names:
        for position, arrow in enumerate(view[name].arrows):
            if arrow.source in body:
                known = body.edges.get((arrow.source, name), {"label": ""})
                body.add_edge(arrow.source, name, label=f"{known['label']},{position}")
    hashes = nx.weisfeiler_lehman_subgraph_hashes(
        body.to_undirected(), node_attr="label", edge_attr="label", iterations=2
    )
    place = {name: i for i, name in enumerate(names)}
    order = list(nx.lexicographical_topological_sort(body, key=lambda n: (hashes[n], place[n])))
    index = {name: i for i, name in enumerate(order)}
    form = tuple((_label(view[n], depth), tuple((index.get(a.source), a.type) for a in view[n].arrows)) for n in order)
    return order, form


def _label(op: Op, depth: int) -> Hashable:
    constants = tuple((c.type, c.shape) for c in op.constants)
    return (op.op, op.type, op.path[depth:], constants, op.literals)


def _follows(
    view: View, drawn: dict[str, str], members: dict[str, list[str]], kept: dict[str, list[str]], chained: bool
) -> list[bool]:
    """For each member, in order, whether it begins right where the one before it ends, and uses it if ``chained``."""
    shared = _names(members) - _names(kept)
    place = {n: i for i, n in enumerate(n for n in view if drawn[n] == n and n not in shared)}
    last: set[str] = set()
    end, follows = -1, []
    for names in kept.values():
        places = [place[n] for n in names]
        uses_last = any(arrow.source in last for n in names for arrow in view[n].arrows)
        follows.append(min(places) == end + 1 and (uses_last or not chained))
        end, last = max(places), set(names)
    return follows


def _runs(forms: Sequence[Hashable], follows: Sequence[bool]) -> list[tuple[int, int, int]]:
    """Start, period and count of the repetitions with which the fewest members are left to draw."""
    known: dict[Hashable, int] = {}
    kinds = [known.setdefault(form, len(known)) for form in forms]
    drawn = [0] * (len(kinds) + 1)  # how many must be drawn from here on
    chosen = [(1, 1)] * len(kinds)
    for start in reversed(range(len(kinds))):
        chain = start + 1
        while chain < len(kinds) and follows[chain]:
            chain += 1
        options = [(1 + drawn[start + 1], 1, 1)]
        for period in range(1, (chain - start) // 2 + 1):
            end = start + period
            while end < chain and kinds[end] == kinds[end - period]:
                end += 1
            for count in range(2, (end - start) // period + 1):
                options.append((period + drawn[start + period * count], period, count))
        drawn[start], *choice = min(options)
        chosen[start] = (choice[0], choice[1])
    runs, at = [], 0
    while at < len(kinds):
        period, count = chosen[at]
        if count > 1:
            runs.append((at, period, count))
        at += period * count
    return runs
