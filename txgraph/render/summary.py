"""What was changed and where, one line each."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from txgraph.render.diff import Fates, Status
from txgraph.render.fold import Folding
from txgraph.render.view import Path, View
from txgraph.rewrite import NearMiss

MAX_OPS = 8  # kinds of operators named in one line


@dataclass(frozen=True)
class Change:
    """A kind of rewrite.

    Attributes:
        verb: ``fused``, ``replaced``, ...
        number: as drawn at the boxes; ``None`` for what has no counterpart on the other side.
        count: how often it was done. passes: that did it.
        what: in words, such as ``3 linear -> linear, split``. where: the module.
    """

    status: Status
    verb: str
    number: int | None
    count: int
    passes: str
    what: str
    where: str = ""


def summarise(
    views: Sequence[View],
    fates: Sequence[Fates],
    folding: Folding,
    numbers: dict[int, int],
    unfused: Sequence[NearMiss] = (),
) -> tuple[Change, ...]:
    """Fusions first, one line for each number; what was not fused; what was removed, changed and added, by pass."""
    return (
        *_numbered(views, fates, folding, numbers),
        *_unfused(unfused, folding),
        *_others(views, fates, numbers),
    )


def _numbered(views: Sequence[View], fates: Sequence[Fates], folding: Folding, numbers: dict[int, int]) -> list[Change]:
    shown = {number: group for group, number in reversed(numbers.items())}  # the first group of each number
    changes = []
    for number, group in sorted(shown.items()):
        before, after = ([n for n, fate in each.items() if fate.group == group] for each in fates)
        fate = fates[0][before[0]]
        where = module_text([views[0][n].path for n in before], folding)
        what = f"{operators_text(views[0][n].op for n in before)} → {operators_text(views[1][n].op for n in after)}"
        count = sum(n == number for n in numbers.values())
        changes.append(
            Change(fate.status, fate.how.removesuffix(" by"), number, count, ", ".join(fate.passes), what, where)
        )
    return changes


def _unfused(misses: Sequence[NearMiss], folding: Folding) -> list[Change]:
    """A line for each rule and reason."""
    found: dict[tuple[str, str], list[Path]] = defaultdict(list)
    for miss in misses:
        found[miss.rule, miss.reason].append(tuple(miss.module.split(".")) if miss.module else ())
    return [
        Change(Status.UNCHANGED, "not fused", None, len(paths), rule, reason, module_text(paths, folding))
        for (rule, reason), paths in found.items()
    ]


def _others(views: Sequence[View], fates: Sequence[Fates], numbers: dict[int, int]) -> list[Change]:
    found: dict[tuple[Status, str], Counter[str]] = defaultdict(Counter)
    for at, status in ((0, Status.REMOVED), (1, Status.CHANGED), (1, Status.ADDED)):
        for name, fate in fates[at].items():
            if fate.status is status and fate.group not in numbers:
                how = fate.how if fate.how == "unused after" else ""
                found[status, f"{how} {', '.join(fate.passes)}".strip()][views[at][name].op] += 1
    order = [Status.ADDED, Status.REMOVED, Status.CHANGED]
    return [
        Change(status, str(status), None, ops.total(), passes, operators_text(ops.elements()))
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


def operators_text(names: Iterable[str]) -> str:
    """``3 linear, gelu``."""
    counts = Counter(names)
    shown = counts if len(counts) <= MAX_OPS else dict(counts.most_common(MAX_OPS - 1))
    texts = [f"{count} {name}" if count > 1 else name for name, count in shown.items()]
    left = counts.total() - sum(shown.values())
    return ", ".join(texts) + (f" and {left} others" if left else "")
