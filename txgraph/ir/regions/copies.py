"""Copies of one piece of the graph side by side: compared node by node, backwards from where they end."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from txgraph.ir.regions.flow import Column, sources_of
from txgraph.ir.regions.path import Path


@dataclass(frozen=True)
class Copies:
    """Equal copies of one piece of the graph.

    Attributes:
        roles: their nodes, in topological order.
        inputs: what these take from outside. places: how many arguments of a copy that are.
    """

    roles: list[Column]
    inputs: list[Column]
    places: int

    @property
    def count(self) -> int:
        """How many copies there are."""
        return len(self.roles[0])


def rank(regions: list[Copies]) -> tuple[int, ...]:
    """The smallest is best: most nodes that need no second look, fewest inputs, most places that take them, first.

    The places tell where a residual starts: of two cuts with one value each, the one with the more users.
    """
    saved = sum(len(copies.roles) * (copies.count - 1) for copies in regions)
    inputs, places = sum(len(copies.inputs) for copies in regions), sum(copies.places for copies in regions)
    return -saved, inputs, -places, *(copies.roles[0][0] for copies in regions)


def equal_copies(path: Path, ends: Sequence[int], after: int = -1) -> Iterator[Copies]:
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
        yield from equal_copies(path, ends[first:last], ends[first - 1] if first else after)


class _Comparison:
    """Copies side by side, followed backwards from their ends.

    Attributes:
        different: each ``k`` such that copies ``k`` and ``k + 1`` are not equal.
    """

    def __init__(self, path: Path, ends: Sequence[int], after: int) -> None:
        self._path, self._flow, self._ends = path, path.flow, ends
        self._cuts = [after, *ends]
        self._roles: dict[Column, None] = {}
        self._place: dict[int, tuple[int, int]] = {}  # copy and number of the role
        self.different: set[int] = set()
        self._compare(tuple(path.nodes[end] for end in ends))

    def copies(self) -> Copies:
        """The copies, with the results that no copy needs itself but all have (the state of a cache)."""
        for role in (roles := list(self._roles)):
            for users in self._side_users(role):
                if all(c in self._roles or self._is_input(c) for c in sources_of(self._flow, users)):
                    self._add(users)
                    roles.append(users)
        roles.sort()
        inputs = [c for role in roles for c in sources_of(self._flow, role) if c not in self._roles]
        return Copies(roles, list(dict.fromkeys(inputs)), len(inputs))

    def is_loop(self, copies: Copies) -> bool:
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

    def _compare(self, column: Column) -> None:
        """Find the roles that lead to a column, and where copies differ; ends early if no two are equal."""
        pending, seen = [column], set[Column]()
        later, unfit = list[Column](), list[Column]()
        while pending and len(self.different) < len(self._ends) - 1:
            column = pending.pop()
            if column in seen:
                continue
            seen.add(column)
            if all(self._copy(n) == k for k, n in enumerate(column)) and self._is_operator(column):
                self._add(column)
                pending += sources_of(self._flow, column)
            elif self._copy(column[1]) == 0:
                later.append(column)  # it may be handed on, if it turns out to be a role
            elif not self._is_input(column):
                unfit.append(column)
                self.different |= self._differences(column)
        unfit += (late := [column for column in later if not self._is_input(column)])
        self.different.update(*map(self._differences, late))
        if not self.different:  # no two are told apart by their use, but they are not the same value
            self.different.update(k for column in unfit for k, (a, b) in enumerate(pairwise(column)) if a != b)

    def _add(self, column: Column) -> None:
        self._place |= {n: (k, len(self._roles)) for k, n in enumerate(column)}
        self._roles[column] = None

    def _is_operator(self, column: Column) -> bool:
        """Whether these are equal operators, one for each copy and in no other role or region."""
        flow = self._flow
        return (
            len({flow.labels[n] for n in column}) == 1
            and len(set(column)) == len(column)
            and all(flow.is_call(n) and n not in self._place and n not in flow.taken for n in column)
        )

    def _is_input(self, column: Column) -> bool:
        """Whether copies may take these from outside: shared, handed on, or the copy's own."""
        if len({self._flow.types[n] for n in column}) > 1:
            return False
        if len(set(column)) == 1 or all(map(self._flow.is_constant, column)):
            return True
        return self._is_handed_on(column) or self._is_own(column)

    def _is_handed_on(self, column: Column) -> bool:
        """Whether every copy takes the same output of the copy before."""
        _, role = self._place.get(column[1], (0, -1))
        return all(self._place.get(n) == (k, role) for k, n in enumerate(column[1:]))

    def _is_own(self, column: Column) -> bool:
        """Whether each takes a value that is not needed by other copies, and that can be computed before all copies."""
        unneeded = len(self._path.nodes)
        return all(self._path.reached[n] < self._ends[0] for n in column[1:]) and all(
            self._copy(user) == k or self._path.needed[user] == unneeded
            for k, n in enumerate(column)
            for user in self._flow.users[n]
        )

    def _differences(self, column: Column) -> set[int]:
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

    def _side_users(self, role: Column) -> list[Column]:
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
