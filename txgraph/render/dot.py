"""A drawing as a Graphviz graph."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import graphviz
import networkx as nx

from txgraph.render import labels
from txgraph.render.diff import Status
from txgraph.render.panel import Box, Frame, Link, Panel
from txgraph.render.style import EDGE, FRAME, GRAPH, LOOKS, NODE, REPEATED
from txgraph.render.summary import Change
from txgraph.render.view import Path


def to_dot(panels: Sequence[Panel], changes: Sequence[Change], title: str) -> graphviz.Digraph:
    """The panels side by side, legend and list of changes above.

    Args:
        panels: one, or the graph before and the graph after. changes: for the list.
    """
    dot = graphviz.Digraph("txgraph")
    header = labels.header(panels, changes, title)
    dot.attr(**GRAPH, label=header, labelloc="t", labeljust="l", fontsize="14", tooltip=labels.tooltip(title))
    dot.attr("node", **NODE)
    dot.attr("edge", **EDGE)
    for panel in panels:
        _Panel(panel).add_to(dot)
    for left, right in _level(*panels) if len(panels) == 2 else ():
        with dot.subgraph() as row:
            row.attr(rank="same")
            row.node(left)
            row.node(right)
    return dot


class _Panel:
    """Writes one graph."""

    def __init__(self, panel: Panel) -> None:
        self._panel = panel
        self._wide = panel.wide()
        self._shown = {link.source for link in panel.links} - self._wide  # an arrow shows their type
        self._references: dict[str, list[Link]] = defaultdict(list)
        for link in panel.links:
            if link.source in self._wide:
                self._references[link.target].append(link)

    def add_to(self, dot: graphviz.Digraph) -> None:
        side = self._panel.side
        with dot.subgraph(name=f"cluster_{side}") as frame:
            frame.attr(
                label=labels.panel_label(self._panel),
                fontsize="20",
                labeljust="l",
                style="rounded",
                color="#BBBBBB",
                bgcolor="#FCFCFC",
                margin="10",
                tooltip=side,
            )
            self._add_boxes(frame, self._panel.tree())
        labelled: set[tuple[str, str]] = set()
        for link in self._panel.links:
            if link.source not in self._wide:
                self._add_link(dot, link, (link.source, link.type) not in labelled)
                labelled.add((link.source, link.type))

    def _add_boxes(self, dot: graphviz.Digraph, module: Frame) -> None:
        for box in module.boxes:
            self._add_box(dot, box, module.path)
        for child in module.children.values():
            with dot.subgraph(name=f"cluster_{self._panel.side}_{'.'.join(child.path)}") as frame:
                frame.attr(
                    label=labels.module_label(child.path, module.path, self._panel),
                    tooltip=labels.tooltip(".".join(child.path)),
                    **FRAME | (REPEATED if child.path in self._panel.repeats else {}),
                )
                self._add_boxes(frame, child)

    def _add_box(self, dot: graphviz.Digraph, box: Box, path: Path) -> None:
        look = LOOKS[box.fate.status]
        classes = [str(box.fate.status)] + ([f"rewrite{box.number}"] if box.number else [])
        dot.node(
            box.id,
            label=labels.box_label(box, path, self._panel, box.id not in self._shown, box.id in self._wide),
            tooltip=labels.box_tooltip(box),
            fillcolor=look.fill if box.is_operator else "#E8E8E8",
            color=look.line,
            style=f"filled,{look.border}" + (",rounded" if box.inside or not box.is_operator else ""),
            penwidth=str(look.width),
            peripheries=str(look.borders),
            **{"class": " ".join(classes)},
        )
        for link in self._references[box.id]:
            self._add_reference(dot, link)

    def _add_link(self, dot: graphviz.Digraph, link: Link, labelled: bool) -> None:
        """Each tensor is labelled once; the tooltip says the type at every arrow."""
        look = {"style": "dashed", "color": LOOKS[Status.REMOVED].line} if link.removed else {}
        tip = labels.link_tooltip(link)
        dot.edge(
            link.source,
            link.target,
            label=f" {graphviz.escape(link.type)}" if labelled and link.type else None,
            edgetooltip=tip,
            labeltooltip=tip,
            **look,
        )

    def _add_reference(self, dot: graphviz.Digraph, link: Link) -> None:
        """The name of a value at one of its users, in place of a long arrow."""
        name = f"{link.source}_at_{link.target}"
        tip = labels.link_tooltip(link)
        dot.node(name, label=labels.reference_label(link), shape="plain", tooltip=tip)
        dot.edge(name, link.target, style="dashed", edgetooltip=tip)


def _level(before: Panel, after: Panel) -> list[tuple[str, str]]:
    """Boxes to stand side by side: the same operator, or what it became.

    Pairs that contradict each other (an operator that was moved past another one) are left out: in the graph
    with each pair made one node these are on a cycle.
    """
    same = {box.ops[0].name: box.id for box in after.boxes}
    fused = {box.number: box.id for box in reversed(after.boxes) if box.fate.status is Status.FUSED}
    partner: dict[str, str] = {}
    for box in before.boxes:
        unchanged = box.fate.status is Status.UNCHANGED
        other = same.get(box.ops[0].name) if unchanged else fused.pop(box.number, None)
        if other is not None:
            partner[other] = box.id
    order: nx.DiGraph = nx.DiGraph()
    for link in (*before.links, *after.links):
        order.add_edge(partner.get(link.source, link.source), partner.get(link.target, link.target))
    cyclic = {name for part in nx.strongly_connected_components(order) if len(part) > 1 for name in part}
    return [(left, right) for right, left in partner.items() if left not in cyclic]
