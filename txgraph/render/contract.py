"""Draw many boxes as one."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce

import networkx as nx

from txgraph.render.diff import UNCHANGED, Fate, Status
from txgraph.render.panel import Box, Link, Panel
from txgraph.render.view import Path

_MOST_TELLING = (Status.FUSED, Status.ADDED, Status.CHANGED, Status.REMOVED)


@dataclass(frozen=True)
class Group:
    """What a box is drawn as a part of.

    Attributes:
        key: equal for the parts of one group.
        title: what they are together. Without one, a box that is alone in its group is drawn as it is.
        path: the module that stands for them, where one does.
    """

    key: Hashable
    title: str = ""
    path: Path | None = None


def contract(panel: Panel, group_of: Callable[[Box], Group | None]) -> Panel:
    """The panel with the boxes of each group drawn as one, or as several where that would draw arrows in a circle.

    Args:
        group_of: the group of a box, or ``None`` for a box that is drawn as it is.
    """
    groups = {box.id: group_of(box) for box in panel.boxes}
    keys: dict[str, Hashable] = {name: name if g is None else ("group", g.key) for name, g in groups.items()}
    circular = _circular(panel.links, keys)
    levels = _levels(panel.links, keys)
    parts: dict[Hashable, list[Box]] = {}
    for box in panel.boxes:
        key = keys[box.id]
        parts.setdefault((key, levels[box.id] if key in circular else None), []).append(box)
    owner: dict[str, Box] = {}
    for boxes in parts.values():
        group = groups[boxes[0].id]
        joined = join(boxes, group) if group is not None and (len(boxes) > 1 or group.title) else boxes[0]
        owner |= {box.id: joined for box in boxes}
    links: dict[tuple[str, ...], Link] = {}
    for link in panel.links:
        source, target = owner[link.source], owner[link.target]
        if source is not target:
            one = source.inside or target.inside  # one arrow for all that runs between them
            key = (source.id, target.id, str(link.removed), "" if one else link.type)
            links.setdefault(key, Link(source.id, target.id, link.type, link.removed))
    return replace(panel, boxes=tuple({box.id: box for box in owner.values()}.values()), links=tuple(links.values()))


def _circular(links: Sequence[Link], keys: Mapping[str, Hashable]) -> set[Hashable]:
    """The groups that arrows lead out of and back into."""
    flow: nx.DiGraph = nx.DiGraph()
    flow.add_edges_from((keys[link.source], keys[link.target]) for link in links)
    return {key for part in nx.strongly_connected_components(flow) if len(part) > 1 for key in part}


def _levels(links: Sequence[Link], keys: Mapping[str, Hashable]) -> dict[str, int]:
    """How many groups are left on the longest way to a box.

    A way out of a group and back into it ends at a higher level: boxes of one group and level are not on a circle.
    """
    flow: nx.DiGraph = nx.DiGraph()
    flow.add_nodes_from(keys)
    flow.add_edges_from((link.source, link.target) for link in links)
    knots = nx.condensation(flow)  # an operator that was moved past another may be both before and behind it
    levels: dict[str, int] = {}
    for knot in nx.topological_sort(knots):
        for box in sorted(knots.nodes[knot]["members"]):
            known = [source for source in flow.predecessors(box) if source in levels]
            levels[box] = max((levels[source] + (keys[source] != keys[box]) for source in known), default=0)
    return levels


def join(boxes: Sequence[Box], group: Group) -> Box:
    """One box for several. What is gone counts as replaced, unless all of it is."""
    leaves = [leaf for box in boxes for leaf in box.inside or (box,)]
    statuses = {leaf.fate.status for leaf in leaves}
    status = next((each for each in _MOST_TELLING if each in statuses), Status.UNCHANGED)
    if status is Status.REMOVED and len(statuses) > 1:
        status = Status.CHANGED  # not all of it is gone
    gone = [leaf for leaf in leaves if leaf.fate.status is Status.REMOVED and status is not Status.REMOVED]
    kept = [leaf for leaf in leaves if leaf not in gone]
    numbers = {leaf.number for leaf in leaves if leaf.number is not None}
    return Box(
        id=f"{boxes[0].id}_and_{len(leaves) - 1}_more",
        path=reduce(_common, (leaf.path for leaf in leaves)) if group.path is None else group.path,
        ops=tuple(op for leaf in kept for op in leaf.ops),
        fate=UNCHANGED if status is Status.UNCHANGED else Fate(status),
        note=_note(leaves),
        number=numbers.pop() if len(numbers) == 1 else None,
        seconds=sum(leaf.seconds for leaf in leaves),
        replaced=tuple(op for leaf in leaves for op in (leaf.ops if leaf in gone else leaf.replaced)),
        inside=tuple(kept),
        title=group.title,
    )


def _note(leaves: Sequence[Box]) -> str:
    """``fused by fuse-attention; removed by fold-constants, remove-identities``."""
    passes: dict[str, dict[str, None]] = {}
    for leaf in leaves:
        if leaf.note:
            passes.setdefault(leaf.fate.how, {}).update(dict.fromkeys(leaf.fate.passes))
    return "; ".join(f"{how} {', '.join(names)}".strip() for how, names in passes.items())


def _common(a: Path, b: Path) -> Path:
    same = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    return a[:same]
