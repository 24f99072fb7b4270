"""A drawing as a Graphviz graph."""

from __future__ import annotations

import graphviz
import networkx as nx

from txgraph.render import labels
from txgraph.render.diff import Status
from txgraph.render.drawing import Box, Cluster, Drawing, Link, Panel
from txgraph.render.style import FONT, INK, LOOKS, QUIET


def to_dot(drawing: Drawing, title: str) -> graphviz.Digraph:
    """The graph before on the left, the graph after on the right, legend and list of changes above."""
    dot = graphviz.Digraph("txgraph")
    dot.attr(
        label=labels.header(drawing, title),
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
    _add_panel(dot, drawing.before, "before")
    _add_panel(dot, drawing.after, "after")
    for left, right in _level(drawing):
        with dot.subgraph() as row:
            row.attr(rank="same")
            row.node(left)
            row.node(right)
    return dot


def _add_panel(dot: graphviz.Digraph, panel: Panel, side: str) -> None:
    with dot.subgraph(name=f"cluster_{side}") as frame:
        frame.attr(
            label=labels.panel_label(side, panel),
            fontsize="20",
            labeljust="l",
            style="rounded",
            color="#BBBBBB",
            bgcolor="#FCFCFC",
            margin="10",
            tooltip=side,
        )
        _add_boxes(frame, panel, panel.root, side)
    labelled: set[tuple[str, str]] = set()
    for link in panel.links:
        _add_link(dot, link, side, (link.source, link.type) not in labelled)
        labelled.add((link.source, link.type))


def _add_boxes(dot: graphviz.Digraph, panel: Panel, cluster: Cluster, side: str) -> None:
    used = {link.source for link in panel.links}
    for box in cluster.boxes:
        _add_box(dot, box, side, labels.box_label(box, cluster.path, box.name in used))
    for child in cluster.children.values():
        repeated = child.path in panel.repeats
        with dot.subgraph(name=f"cluster_{side}_{'.'.join(child.path)}") as frame:
            frame.attr(
                label=labels.module_label(child.path, cluster.path, panel),
                labeljust="l",
                fontsize="10",
                style="rounded",
                bgcolor="#00000006",
                color="#555555" if repeated else "#CCCCCC",
                penwidth="2" if repeated else "1",
                margin="6",
                tooltip=labels.tooltip(".".join(child.path)),
            )
            _add_boxes(frame, panel, child, side)


def _add_box(dot: graphviz.Digraph, box: Box, side: str, label: str) -> None:
    look = LOOKS[box.fate.status]
    is_operator = box.ops[0].kind == "call_function"
    classes = [str(box.fate.status)] + ([f"rewrite{box.number}"] if box.number else [])
    dot.node(
        f"{side}_{box.name}",
        label=label,
        tooltip=labels.box_tooltip(box),
        fillcolor=look.fill if is_operator else "#E8E8E8",
        color=look.line,
        style=f"filled,{look.border}" if is_operator else "filled,rounded",
        penwidth=str(look.width),
        peripheries=str(look.borders),
        **{"class": " ".join(classes)},
    )


def _add_link(dot: graphviz.Digraph, link: Link, side: str, label: bool) -> None:
    """Each tensor is labelled once; the tooltip says the type at every arrow."""
    tip = labels.tooltip(f"{link.source} -> {link.target}: {link.type}")
    dot.edge(
        f"{side}_{link.source}",
        f"{side}_{link.target}",
        label=f" {graphviz.escape(link.type)}" if label and link.type else None,
        edgetooltip=tip,
        labeltooltip=tip,
    )


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
