"""What was changed and where, one line each."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from txgraph.render.diff import Fates, Status
from txgraph.render.fold import Folding
from txgraph.render.view import Path, View


@dataclass(frozen=True)
class Change:
    """A kind of rewrite.

    Attributes:
        number: as drawn at the boxes; ``None`` for what has no counterpart on the other side.
        count: how often it was done. passes: that did it.
        what: in words, such as ``3 linear -> linear, split``. where: the module.
    """

    status: Status
    number: int | None
    count: int
    passes: str
    what: str
    where: str = ""


def summarise(
    views: Sequence[View], fates: Sequence[Fates], folding: Folding, numbers: Mapping[int, int]
) -> tuple[Change, ...]:
    """Fusions first, one line for each number; then what was removed, changed and added, by pass."""
    return (*_numbered(views, fates, folding, numbers), *_others(views, fates, numbers))


def _numbered(
    views: Sequence[View], fates: Sequence[Fates], folding: Folding, numbers: Mapping[int, int]
) -> list[Change]:
    members: dict[int, list[list[str]]] = defaultdict(lambda: [[], []])
    for at, each in enumerate(fates):
        for name, fate in each.items():
            if fate.group in numbers and folding.drawn[at][name] == name:
                members[numbers[fate.group]][at].append(name)
    changes = []
    for number, (before, after) in sorted(members.items()):
        if not before or not after:
            continue
        fate = fates[0][before[0]]
        where = module_text([folding.paths[0][n] for n in before], folding)
        what = f"{_ops(views[0][n].op for n in before)} → {_ops(views[1][n].op for n in after)}"
        count = sum(n == number for n in numbers.values())
        changes.append(Change(fate.status, number, count, ", ".join(fate.passes), what, where))
    return changes


def _others(views: Sequence[View], fates: Sequence[Fates], numbers: Mapping[int, int]) -> list[Change]:
    found: dict[tuple[Status, str], Counter[str]] = defaultdict(Counter)
    for at, status in ((0, Status.REMOVED), (1, Status.CHANGED), (1, Status.ADDED)):
        for name, fate in fates[at].items():
            if fate.status is status and fate.group not in numbers:
                how = fate.how if fate.how == "unused after" else ""
                found[status, f"{how} {', '.join(fate.passes)}".strip()][views[at][name].op] += 1
    order = [Status.ADDED, Status.REMOVED, Status.CHANGED]
    return [
        Change(status, None, ops.total(), passes, _ops(ops.elements()))
        for (status, passes), ops in sorted(found.items(), key=lambda f: (order.index(f[0][0]), -f[1].total()))
    ]


def module_text(paths: Iterable[Path], folding: Folding) -> str:
    """The module that all paths have in common, such as ``encoder.layer.0..11.attention``."""
    paths = list(paths)
    common: list[str] = []
    for parts in zip(*paths, strict=False):
        if len(set(parts)) > 1:
            break
        common.append(parts[0])
    for depth in range(len(common)):
        repeat = folding.repeats.get(paths[0][: depth + 1])
        if repeat:
            common[depth] = repeat.text
    return ".".join(common)


def _ops(names: Iterable[str]) -> str:
    counts = Counter(names)
    return ", ".join(f"{count} {name}" if count > 1 else name for name, count in counts.items())
