"""A drawing as a Graphviz graph."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import graphviz
import networkx as nx

from txgraph.render import labels
from txgraph.render.diff import Status
from txgraph.render.drawing import Box, Cluster, Drawing, Link, Panel
from txgraph.render.style import FONT, INK, LOOKS, QUIET
from txgraph.render.view import Path


def to_dot(drawing: Drawing, title: str, sides: Sequence[str] = ("before", "after")) -> graphviz.Digraph:
    """The graph before on the left, the graph after on the right, legend and list of changes above.

    Args:
        sides: which of the two are drawn.
    """
    dot = graphviz.Digraph("txgraph")
    dot.attr(
        label=labels.header(drawing, title, len(sides) == 2),
        labelloc="t",
        labeljust="l",
        fontname=FONT,
        fontsize="14",
        fontcolor=INK,
        newrank="true",
        nodesep="0.18",
        ranksep="0.2",
        pad="0.2",
        outputorder="edgesfirst",
        tooltip=labels.tooltip(title),
    )
    dot.attr("node", shape="box", fontname=FONT, fontsize="10", fontcolor=INK, margin="0.07,0.035", height="0.25")
    dot.attr("edge", fontname=FONT, fontsize="8", fontcolor=QUIET, color="#777777", arrowsize="0.6")
    for side, panel in (("before", drawing.before), ("after", drawing.after)):
        if side in sides:
            _Panel(panel, side).add_to(dot)
    for left, right in _level(drawing) if len(sides) == 2 else ():
        with dot.subgraph() as row:
            row.attr(rank="same")
            row.node(left)
            row.node(right)
    return dot


class _Panel:
    """Writes one of the two graphs; the names of its nodes begin with its side."""

    def __init__(self, panel: Panel, side: str) -> None:
        self._panel = panel
        self._side = side
        self._wide = panel.wide()
        self._shown = {link.source for link in panel.links} - self._wide  # an arrow shows their type
        self._references: dict[str, list[Link]] = defaultdict(list)
        for link in panel.links:
            if link.source in self._wide:
                self._references[link.target].append(link)

    def add_to(self, dot: graphviz.Digraph) -> None:
        with dot.subgraph(name=f"cluster_{self._side}") as frame:
            frame.attr(
                label=labels.panel_label(self._side, self._panel),
                fontsize="20",
                labeljust="l",
                style="rounded",
                color="#BBBBBB",
                bgcolor="#FCFCFC",
                margin="10",
                tooltip=self._side,
            )
            self._add_boxes(frame, self._panel.root)
        labelled: set[tuple[str, str]] = set()
        for link in self._panel.links:
            if link.source not in self._wide:
                self._add_link(dot, link, (link.source, link.type) not in labelled)
                labelled.add((link.source, link.type))

    def _add_boxes(self, dot: graphviz.Digraph, cluster: Cluster) -> None:
        for box in cluster.boxes:
            self._add_box(dot, box, cluster.path)
        for child in cluster.children.values():
            repeated = child.path in self._panel.repeats
            with dot.subgraph(name=f"cluster_{self._side}_{'.'.join(child.path)}") as frame:
                frame.attr(
                    label=labels.module_label(child.path, cluster.path, self._panel),
                    labeljust="l",
                    fontsize="10",
                    style="rounded",
                    bgcolor="#00000006",
                    color="#555555" if repeated else "#CCCCCC",
                    penwidth="2" if repeated else "1",
                    margin="6",
                    tooltip=labels.tooltip(".".join(child.path)),
                )
                self._add_boxes(frame, child)

    def _add_box(self, dot: graphviz.Digraph, box: Box, path: Path) -> None:
        look = LOOKS[box.fate.status]
        is_operator = box.ops[0].kind == "call_function"
        classes = [str(box.fate.status)] + ([f"rewrite{box.number}"] if box.number else [])
        dot.node(
            f"{self._side}_{box.name}",
            label=labels.box_label(box, path, box.name not in self._shown, box.name in self._wide),
            tooltip=labels.box_tooltip(box),
            fillcolor=look.fill if is_operator else "#E8E8E8",
            color=look.line,
            style=f"filled,{look.border}" if is_operator else "filled,rounded",
            penwidth=str(look.width),
            peripheries=str(look.borders),
            **{"class": " ".join(classes)},
        )
        for link in self._references[box.name]:
            self._add_reference(dot, link)

    def _add_link(self, dot: graphviz.Digraph, link: Link, labelled: bool) -> None:
        """Each tensor is labelled once; the tooltip says the type at every arrow."""
        tip = labels.tooltip(f"{link.source} -> {link.target}: {link.type}")
        dot.edge(
            f"{self._side}_{link.source}",
            f"{self._side}_{link.target}",
            label=f" {graphviz.escape(link.type)}" if labelled and link.type else None,
            edgetooltip=tip,
            labeltooltip=tip,
        )

    def _add_reference(self, dot: graphviz.Digraph, link: Link) -> None:
        """The name of a value at one of its users, in place of a long arrow."""
        name = f"{self._side}_{link.source}_at_{link.target}"
        tip = labels.tooltip(f"{link.source} -> {link.target}: {link.type}")
        dot.node(name, label=labels.reference_label(link), shape="plain", tooltip=tip)
        dot.edge(name, f"{self._side}_{link.target}", style="dashed", edgetooltip=tip)


def _level(drawing: Drawing) -> list[tuple[str, str]]:
    """Boxes to stand side by side: the same operator, or what it became.

    Pairs that contradict each other (an operator that was moved past another one) are left out: in the graph
    with each pair made one node these are on a cycle.
    """
    after = {box.name: box for box in drawing.after.boxes()}
    fused = {box.number: box for box in reversed(drawing.after.boxes()) if box.fate.status is Status.FUSED}
    partner: dict[str, str] = {}
    for box in drawing.before.boxes():
        status = box.fate.status
        same = after.get(box.name) if status is Status.UNCHANGED else fused.pop(box.number, None)
        if same is not None:
            partner[f"after_{same.name}"] = f"before_{box.name}"
    order: nx.DiGraph = nx.DiGraph()
    for side, panel in (("before", drawing.before), ("after", drawing.after)):
        for link in panel.links:
            source, target = f"{side}_{link.source}", f"{side}_{link.target}"
            order.add_edge(partner.get(source, source), partner.get(target, target))
    cyclic = {name for part in nx.strongly_connected_components(order) if len(part) > 1 for name in part}
    return [(left, right) for right, left in partner.items() if left not in cyclic]
