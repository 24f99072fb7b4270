"""What became of every node, from the records of the rewrites."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import networkx as nx

from txgraph.render.view import Op, View
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
        group: number that nodes before and after share when these were made out of those.
    """

    status: Status
    how: str = ""
    passes: tuple[str, ...] = ()
    group: int | None = None


UNCHANGED = Fate(Status.UNCHANGED)

Fates = dict[str, Fate]
_Value = tuple[str, int]  # a node's name may be used again after it is gone: the number tells such nodes apart


def compare(before: View, after: View, rewrites: Sequence[Rewrite]) -> tuple[Fates, Fates]:
    """The fate of every node of both graphs; without records, nodes are told apart by name only."""
    history = _History(before, after, rewrites)
    fates_after = {name: _fate_after(op, before, history) for name, op in after.items()}
    made = {fate.group for fate in fates_after.values()}
    users = _users(before)
    fates_before: Fates = {}
    for name in reversed(before):
        if history.current.get(name) == (name, 0) and name in after:
            fates_before[name] = fates_after[name]
        elif (name, 0) in history.removed_by:
            fates_before[name] = _fate_before(name, history, made)
        else:
            passes = _unique(p for user in users[name] for p in fates_before[user].passes)
            fates_before[name] = Fate(Status.REMOVED, "unused after", passes)
    return fates_before, fates_after


def _fate_after(op: Op, before: View, history: _History) -> Fate:
    value = history.current.get(op.name)
    if value is None:
        return Fate(Status.ADDED, "added by", op.passes)
    if value in history.made_by:
        group, replaced = history.group(value)
        passes = op.passes or (history.made_by[value],)
        if replaced > 1 and not op.is_view:
            return Fate(Status.FUSED, "fused by", passes, group)
        return Fate(Status.ADDED, "added by", passes, group if replaced else None)
    was = before[op.name]
    if (op.op, op.type, op.passes) != (was.op, was.type, was.passes):
        return Fate(Status.CHANGED, "changed by", tuple(p for p in op.passes if p not in was.passes))
    return UNCHANGED


def _fate_before(name: str, history: _History, made: set[int | None]) -> Fate:
    passes = history.passes((name, 0))
    group, replaced = history.group((name, 0))
    if group is None or group not in made:
        return Fate(Status.REMOVED, "removed by", passes)
    if replaced > 1:
        return Fate(Status.FUSED, "fused by", passes, group)
    return Fate(Status.REMOVED, "replaced by", passes, group)


class _History:
    """Which values each rewrite removed and made.

    Attributes:
        current: the value that each name stands for at the end.
        removed_by, made_by: the rule that did it.
    """

    def __init__(self, before: View, after: View, rewrites: Sequence[Rewrite]) -> None:
        self.current: dict[str, _Value] = {name: (name, 0) for name in before}
        self.removed_by: dict[_Value, str] = {}
        self.made_by: dict[_Value, str] = {}
        self._made_from: dict[_Value, tuple[_Value, ...]] = {}
        made_at_all = {name for rewrite in rewrites for name in rewrite.made}
        links: nx.Graph = nx.Graph()
        for number, rewrite in enumerate(rewrites, start=1):
            removed = [
                self.current.pop(name)
                for name in rewrite.removed
                if name in self.current and (name not in after or name in made_at_all)
            ]
            made = [(name, number) for name in rewrite.made]
            self.current.update({value[0]: value for value in made})
            for value in made:
                self.made_by[value] = rewrite.rule
            for value in removed:
                self.removed_by[value] = rewrite.rule
                self._made_from[value] = tuple(made)
            links.add_nodes_from(made)
            links.add_edges_from((value, made[0]) for value in (*removed, *made) if made and value != made[0])
        self._groups: dict[_Value, tuple[int, int]] = {}
        for number, group in enumerate(nx.connected_components(links)):
            replaced = sum(value[1] == 0 for value in group)
            self._groups |= dict.fromkeys(group, (number, replaced))

    def group(self, value: _Value) -> tuple[int | None, int]:
        """Number of the set of values made out of each other, and how many captured nodes are in it."""
        return self._groups.get(value, (None, 0))

    def passes(self, value: _Value) -> tuple[str, ...]:
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
