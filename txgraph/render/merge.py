"""Both graphs as one: the graph after, what its operators were made of, and what is gone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from difflib import SequenceMatcher
from itertools import takewhile

from txgraph.render.contract import Group, contract
from txgraph.render.diff import Status
from txgraph.render.drawing import Drawing
from txgraph.render.panel import Box, Link, Panel
from txgraph.render.view import Op, Path


def merge(drawing: Drawing) -> Panel:
    """The graph after, with the operators of the graph before that nothing became of, and arrows to where they were.

    What one operator was made of stands in its box. Removed operators that fed each other are one box.
    """
    partner = _partners(drawing)
    replaced: dict[str, list[Op]] = defaultdict(list)
    for box in drawing.before.boxes:
        if box.id in partner and box.fate.status is not Status.UNCHANGED:
            replaced[partner[box.id]] += box.ops
    boxes = [replace(box, replaced=tuple(replaced[box.id])) for box in drawing.after.boxes]
    gone = [replace(box, seconds=0.0) for box in drawing.before.boxes if box.id not in partner]  # it takes none now
    place = partner | {box.id: box.id for box in gone}
    removed = {box.id for box in gone}
    links = dict.fromkeys(drawing.after.links)
    for link in drawing.before.links:
        if (link.source in removed or link.target in removed) and place[link.source] != place[link.target]:
            links[Link(place[link.source], place[link.target], link.type, removed=True)] = None
    panel = replace(
        drawing.after,
        side="diff",
        boxes=(*gone, *boxes),
        links=tuple(links),
        classes={**drawing.before.classes, **drawing.after.classes},
        was=drawing.before.operators,
    )
    panel = contract(panel, lambda box: Group(("removed", box.path)) if box.id in removed else None)
    return replace(panel, links=tuple(_through(panel.links)))


def _through(links: Sequence[Link]) -> list[Link]:
    """Without the arrows beside a removed operator, where what came into it now goes to its only user."""
    sources, targets = defaultdict(set), defaultdict(set)
    for link in links:
        if link.removed:
            sources[link.target].add(link.source)
            targets[link.source].add(link.target)
    beside = {
        (source, target)
        for box in sources.keys() & targets.keys()
        for source in sources[box]
        for target in targets[box]
        if len(sources[box]) == len(targets[box]) == 1
    }
    return [link for link in links if link.removed or (link.source, link.target) not in beside]


def unchanged_parts(panel: Panel) -> Panel:
    """The panel with each stretch of unchanged operators drawn as one box, and modules without a change as one."""
    changed: set[Path] = set()
    for box in panel.boxes:
        if box.fate.status is not Status.UNCHANGED:
            changed |= {box.path[:depth] for depth in range(len(box.path) + 1)}

    def group(box: Box) -> Group | None:
        if box.fate.status is not Status.UNCHANGED or not box.is_operator:
            return None
        depth = next((d for d in range(len(box.path) + 1) if box.path[:d] not in changed), len(box.path))
        return Group(("unchanged", box.path[:depth]), path=box.path[:depth])

    return contract(panel, group)


def _partners(drawing: Drawing) -> dict[str, str]:
    """For the boxes before, by id, the box after that they are still, or that was made of them."""
    holder = {op.name: box.id for box in drawing.after.boxes for op in box.ops}
    made: dict[int | None, list[Box]] = defaultdict(list)
    for box in drawing.after.boxes:
        made[box.fate.group].append(box)
    partner: dict[str, str] = {}
    for box in drawing.before.boxes:
        if box.fate.status is Status.UNCHANGED or not box.is_operator:
            after = holder.get(box.ops[-1].name)
        else:
            after = _nearest(box, made[box.fate.group]) if box.fate.group is not None else None
        if after is not None:
            partner[box.id] = after
    return partner


def _nearest(box: Box, made: Sequence[Box]) -> str | None:
    """Of what a rewrite made, the box that an operator most likely became."""

    def likeness(other: Box) -> tuple[bool, int, float]:
        same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(box.path, other.path, strict=False)))
        return other.fate.status is Status.FUSED, same, SequenceMatcher(None, box.ops[0].op, other.ops[0].op).ratio()

    return max(made, key=likeness).id if made else None
