"""What became of every node, from the records of the rewrites."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import networkx as nx

from txgraph.render.view import View
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
    groups = {value: number for number, group in enumerate(history.groups) for value in group}
    sizes = [sum(value[1] == 0 and value[0] in before for value in group) for group in history.groups]
    fates_after: Fates = {}
    for name, op in after.items():
        value = history.current.get(name)
        if value is not None and value[1] > 0:
            group = groups.get(value)
            fused = group is not None and sizes[group] > 1 and not op.is_view
            status = Status.FUSED if fused else Status.ADDED
            fates_after[name] = Fate(
                status, f"{status} by", op.passes or (history.made_by[value],), group if group is not None and sizes[group] else None
            )
        elif value is None:
            fates_after[name] = Fate(Status.ADDED, "added by", op.passes)
        elif (op.op, op.type, op.passes) != (before[name].op, before[name].type, before[name].passes):
            new = tuple(p for p in op.passes if p not in before[name].passes)
            fates_after[name] = Fate(Status.CHANGED, "changed by", new)
        else:
            fates_after[name] = UNCHANGED
    survivors = {groups[v] for n in after if (v := history.current.get(n)) in groups}
    fates_before: Fates = {}
    users = _users(before)
    for name in reversed(before):
        value = (name, 0)
        group = groups.get(value)
        if value in history.removed_by:
            passes = history.passes(value)
            if group not in survivors:
                fates_before[name] = Fate(Status.REMOVED, "removed by", passes)
            elif group is not None and sizes[group] > 1:
                fates_before[name] = Fate(Status.FUSED, "fused by", passes, group)
            else:
                fates_before[name] = Fate(Status.REMOVED, "replaced by", passes, group)
        elif name in after:
            fates_before[name] = fates_after[name]
        else:
            passes = _unique(p for user in users[name] for p in fates_before[user].passes)
            fates_before[name] = Fate(Status.REMOVED, "unused after", passes)
    return fates_before, fates_after


class _History:
    """Which values each rewrite removed and made.

    Attributes:
        current: the value that each name stands for at the end.
        removed_by, made_by: the rule that did it.
        groups: sets of values that were made out of each other.
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
        self.groups = [sorted(group) for group in nx.connected_components(links)]

    def passes(self, value: _Value) -> tuple[str, ...]:
        """The rule that removed a value, then those that removed what was made of it."""
        if value not in self.removed_by:
            return ()
        later = (p for made in self._made_from[value] for p in self.passes(made))
        return _unique((self.removed_by[value], *later))


def _users(view: View) -> dict[str, list[str]]:
    users: dict[str, list[str]] = {name: [] for name in view}
    for op in view.values():
        for arrow in op.arrows:
            users[arrow.source].append(op.name)
    return users


def _unique(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(values))
