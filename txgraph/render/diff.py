"""What became of every node, from the records of the rewrites."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import networkx as nx

from txgraph.render.view import Op, Path, View, is_member
from txgraph.rewrite import Rewrite


class Status(StrEnum):
    """How a node differs between the two graphs."""

    UNCHANGED = "unchanged"
    FUSED = "fused"
    ADDED = "added"
    REMOVED = "removed"
    CHANGED = "changed"


@dataclass(frozen=True)
class Fate:
    """What became of a node, or where it comes from.

    Attributes:
        how: in words, such as ``fused by``. passes: that did it.
        trail: all passes that had a part in it, in order.
        group: number that nodes before and after share when these were made out of those.
    """

    status: Status
    how: str = ""
    passes: tuple[str, ...] = ()
    trail: tuple[str, ...] = ()
    group: int | None = None


UNCHANGED = Fate(Status.UNCHANGED)

Fates = dict[str, Fate]
_Value = tuple[str, int]  # a node's name may be used again after it is gone: the number tells such nodes apart


def compare(before: View, after: View, rewrites: Sequence[Rewrite]) -> tuple[Fates, Fates]:
    """The fate of every node of both graphs; without records, nodes are told apart by name only."""
    history = _History(before, after, rewrites)
    fates_after = {name: _fate_after(op, before, history) for name, op in after.items()}
    users = _users(before)
    fates_before: Fates = {}
    blame: dict[str, tuple[str, ...]] = {}  # for each node the passes that left what leads to it unused
    for name in reversed(before):
        behind = _unique(p for user in users[name] for p in blame[user])
        if history.current.get(name) == (name, 0) and name in after:
            fate = fates_after[name]
        elif (name, 0) in history.removed_by:
            fate = _fate_before(name, history)
        else:
            direct = _unique(p for user in users[name] for p in fates_before[user].passes)
            fate = Fate(Status.REMOVED, "unused after", behind or direct)
        fates_before[name] = fate
        # What a node was merged with or forwarded to its users still uses its inputs; what was made of it may not.
        blame[name] = fate.passes if history.has_successor((name, 0)) else behind
    return {name: fates_before[name] for name in before}, fates_after


def replaced_paths(before: View, after: View, fates: Sequence[Fates]) -> dict[str, Path]:
    """For nodes made out of others, the module that these have in common.

    A node that was made of several carries the module of one of them. Members of module lists are never
    left, so that a node made of two layers stays in one.
    """
    common: dict[int | None, Path] = {}
    for name, fate in fates[0].items():
        if fate.group is not None:
            path = before[name].path
            known = common.get(fate.group, path)
            same = next((i for i, (a, b) in enumerate(zip(known, path, strict=False)) if a != b), None)
            common[fate.group] = known[: min(len(known), len(path)) if same is None else same]
    return {
        name: shared
        for name, fate in fates[1].items()
        if (shared := common.get(fate.group, ())) and not any(map(is_member, after[name].path[len(shared) :]))
    }


def _fate_after(op: Op, before: View, history: _History) -> Fate:
    value = history.current.get(op.name)
    if value is None:
        return Fate(Status.ADDED, "added by", op.passes[-1:], op.passes)
    if value in history.made_by:
        group = history.groups[value]
        passes, trail = (history.made_by[value],), op.passes
        if group.replaced == group.made == 1:
            return Fate(Status.CHANGED, "changed by", passes, trail, group.number)
        if group.fused and not op.is_view:
            return Fate(Status.FUSED, "fused by", passes, trail, group.number)
        return Fate(Status.ADDED, "added by", passes, trail, group.number if group.replaced else None)
    was = before[op.name]
    if (op.op, op.type, op.passes) != (was.op, was.type, was.passes):
        new = tuple(p for p in op.passes if p not in was.passes)
        return Fate(Status.CHANGED, "changed by", new[-1:], new)
    return UNCHANGED


def _fate_before(name: str, history: _History) -> Fate:
    trail = history.trail((name, 0))
    group = history.groups.get((name, 0))
    if group is None or not group.made:
        return Fate(Status.REMOVED, "removed by", trail[-1:], trail)
    if group.replaced == group.made == 1:
        return Fate(Status.CHANGED, "changed by", group.makers, trail, group.number)
    if group.fused:
        return Fate(Status.FUSED, "fused by", group.makers, trail, group.number)
    return Fate(Status.REMOVED, "replaced by", group.makers, trail, group.number)


@dataclass(frozen=True)
class _Group:
    """Values made out of each other.

    Attributes:
        replaced, made: how many of them were captured and are gone, and how many are left at the end.
        makers: the rules that made those that are left.
        fused: whether several became one operator that computes; joined views are no fusion.
    """

    number: int
    replaced: int
    made: int
    makers: tuple[str, ...]
    fused: bool


class _History:
    """Which values each rewrite removed and made.

    Attributes:
        current: the value that each name stands for at the end.
        removed_by, made_by: the rule that did it.
        groups: the group of each value that was made of others, or made into others.
    """

    def __init__(self, before: View, after: View, rewrites: Sequence[Rewrite]) -> None:
        self.current: dict[str, _Value] = {name: (name, 0) for name in before}
        self.removed_by: dict[_Value, str] = {}
        self.made_by: dict[_Value, str] = {}
        self.groups: dict[_Value, _Group] = {}
        self._made_from: dict[_Value, list[_Value]] = {}
        remade = {name for rewrite in rewrites for name in rewrite.made}
        links: nx.Graph = nx.Graph()
        for number, rewrite in enumerate(rewrites, start=1):
            gone = [n for n in rewrite.removed if n in self.current and (n not in after or n in remade)]
            removed = [self.current.pop(name) for name in gone]
            made = [(name, number) for name in rewrite.made]
            self.current |= {value[0]: value for value in made}
            self.made_by |= dict.fromkeys(made, rewrite.rule)
            self.removed_by |= dict.fromkeys(removed, rewrite.rule)
            self._made_from |= dict.fromkeys(removed, made)
            links.add_nodes_from(made)
            links.add_edges_from((made[0], value) for value in (*removed, *made[1:]) if made)
        left = {value for name, value in self.current.items() if name in after}
        for number, values in enumerate(nx.connected_components(links)):
            made = sorted(values & left, key=lambda v: (v[1], v[0]))
            makers = _unique(self.made_by[v] for v in made)
            replaced = sum(value[1] == 0 for value in values)
            fused = replaced > 1 and not all(after[v[0]].is_view for v in made)
            self.groups |= dict.fromkeys(values, _Group(number, replaced, len(made), makers, fused))

    def has_successor(self, value: _Value) -> bool:
        """Whether something was made of it."""
        return bool(self._made_from.get(value))

    def trail(self, value: _Value) -> tuple[str, ...]:
        """The rule that removed a value, then those that removed what was made of it."""
        pending, seen = [value], dict[_Value, str]()
        for each in pending:
            if each in self.removed_by and each not in seen:
                seen[each] = self.removed_by[each]
                pending += self._made_from[each]
        return _unique(seen.values())


def _users(view: View) -> dict[str, list[str]]:
    users: dict[str, list[str]] = {name: [] for name in view}
    for op in view.values():
        for arrow in op.arrows:
            users[arrow.source].append(op.name)
    return users


def _unique(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(values))
