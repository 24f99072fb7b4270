"""What the interactive page is made of, as plain data: see ``web/graph.js`` and ``web/page.js`` for who reads it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from txgraph.render import labels
from txgraph.render.contract import Group, join
from txgraph.render.drawing import SIDES, Drawing, Stages
from txgraph.render.levels import kernels, parts
from txgraph.render.merge import merge, unchanged_parts
from txgraph.render.panel import MAX_ARROWS, Box, Frame, Panel
from txgraph.render.style import EDGE, FRAME, GRAPH, LOOKS, NODE, REPEATED
from txgraph.render.summary import operators_text
from txgraph.render.tables import tables
from txgraph.render.view import Op


def page_data(stages: Stages, drawing: Drawing) -> dict[str, Any]:
    """All that is drawn and told: views, changes, operators, kernels and tables."""
    both = merge(drawing)
    views = {"diff": _view(both, unchanged_parts(both))}
    views |= {panel.side: _view(panel, panel) for panel in (drawing.before, drawing.after)}
    if stages.kernels:
        views["kernels"] = _view(drawing.after, kernels(drawing.after, stages.kernels))
    seconds = [] if stages.profile is None else [launch.seconds for launch in stages.profile.launches]
    codes = list(dict.fromkeys(kernel.code for kernel in stages.kernels if kernel.code))
    return {
        "views": views,
        "summary": f"{drawing.before.operators} operators before, {drawing.after.operators} after",
        "changes": [asdict(change) for change in drawing.changes],
        "ops": _operators(stages, drawing),
        "codes": codes,
        "kernels": [
            {
                "name": kernel.name,
                "nodes": list(kernel.nodes),
                "code": codes.index(kernel.code) if kernel.code else None,
                "time": "" if at >= len(seconds) else labels.time_text(seconds[at]),
            }
            for at, kernel in enumerate(stages.kernels)
        ],
        "tables": [asdict(table) for table in tables(stages)],
        "style": {
            "graph": GRAPH,
            "node": NODE,
            "edge": EDGE,
            "frame": FRAME,
            "repeated": REPEATED,
            "looks": {str(status): asdict(look) for status, look in LOOKS.items()},
            "mostArrows": MAX_ARROWS,
        },
    }


def _view(whole: Panel, shown: Panel) -> dict[str, Any]:
    """Boxes of ``whole`` in the modules and groups of ``shown``.

    Args:
        shown: the same panel, where some boxes may be drawn as one.
    """
    writer = _Writer(whole)
    writer.add(parts(shown).tree(), None)
    links = [[link.source, link.target, link.type, link.removed] for link in whole.links]
    return {"boxes": writer.boxes, "containers": writer.containers, "links": links}


class _Writer:
    """Writes boxes, and the modules and groups around them."""

    def __init__(self, panel: Panel) -> None:
        self.boxes: list[dict[str, Any]] = []
        self.containers: list[dict[str, Any]] = []
        self._panel = panel
        self._labelled = {link.source for link in panel.links}  # an arrow shows their type

    def add(self, frame: Frame, parent: str | None) -> list[Box]:
        """Write what is in a module; gives its boxes."""
        leaves: list[Box] = []
        for box in frame.boxes:
            leaves += box.inside or (box,)
            if box.inside:
                self._add_container(box, box.id, parent, frame.path, closed=True)
                for leaf in box.inside:
                    self._add_box(leaf, box.id, box.path)
            else:
                self._add_box(box, parent, frame.path)
        for child in frame.children.values():
            name = ".".join(child.path)
            place = len(self.containers)
            inside = self.add(child, name)
            module = join(inside, Group(name, self._panel.classes.get(child.path, ""), child.path))
            self._add_container(module, name, parent, frame.path, closed=False)
            self.containers.insert(place, self.containers.pop())  # what is around comes first
            leaves += inside
        return leaves

    def _add_box(self, box: Box, parent: str | None, path: tuple[str, ...]) -> None:
        label = labels.box_label(box, path, self._panel, shows_type=box.id not in self._labelled)
        title = " ".join(op.op for op in box.ops)
        each = {"ops": [op.name for op in box.ops], "replaced": [op.name for op in box.replaced]}
        self.boxes.append(self._common(box, box.id, parent, label, title) | each)

    def _add_container(self, box: Box, name: str, parent: str | None, path: tuple[str, ...], closed: bool) -> None:
        label = labels.box_label(box, path, self._panel)
        title = f"{'.'.join(box.path)} {box.title}".strip() or operators_text(op.op for op in box.ops)
        head = labels.module_label(box.path, path, self._panel) if name == ".".join(box.path) else f"<{_head(box)}>"
        repeated = box.path in self._panel.repeats and not closed
        more = {"head": head[1:-1], "closed": closed, "repeated": repeated}
        self.containers.append(self._common(box, name, parent, label, title) | more)

    def _common(self, box: Box, name: str, parent: str | None, label: str, title: str) -> dict[str, Any]:
        panel = self._panel
        share = box.seconds / panel.seconds if panel.seconds else 0.0
        where = labels.path_text(box.path, panel)
        texts = [title, where, *(_find(op) for op in (*box.ops, *box.replaced)), box.note]
        return {
            "id": name,
            "parent": parent,
            "name": box.ops[-1].name if box.ops else "",
            "label": label[1:-1],  # without the brackets of DOT
            "title": title,
            "where": where,
            "status": str(box.fate.status),
            "number": box.number,
            "note": box.note,
            "share": f"{share:.1%} ({labels.time_text(box.seconds)} {panel.time})" if share else "",
            "times": box.times,
            "plain": not box.inside and not box.is_operator,
            "text": " ".join(texts).lower() if not box.inside else f"{title} {where}".lower(),
        }


def _head(box: Box) -> str:
    return labels.escape(box.title or f"{len(box.ops)} unchanged")


def _find(op: Op) -> str:
    """What a search finds it by."""
    return " ".join((op.op, op.name, ".".join(op.path), op.location, op.code, *(c.name for c in op.constants)))


def _operators(stages: Stages, drawing: Drawing) -> dict[str, dict[str, Any]]:
    misses: Mapping[str, list[dict[str, str]]] = defaultdict(list)
    for miss in stages.misses():
        misses[miss.root].append({"rule": miss.rule, "reason": miss.reason})
    return {
        side: {
            op.name: {
                "op": op.op,
                "text": op.text,
                "type": op.type,
                "module": ".".join(op.path),
                "location": op.location,
                "code": op.code,
                "passes": ", ".join(op.passes),
                "error": op.error,
                "misses": misses.get(op.name, []),
            }
            for box in panel.boxes
            for op in box.ops
        }
        for side, panel in zip(SIDES, (drawing.before, drawing.after), strict=True)
    }
