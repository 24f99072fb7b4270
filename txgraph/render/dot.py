"""A drawing as a Graphviz graph."""

from __future__ import annotations

import html
from collections.abc import Iterator

import graphviz

from txgraph.render.diff import Status
from txgraph.render.drawing import Box, Cluster, Drawing, Link, Panel
from txgraph.render.fold import Repeat
from txgraph.render.style import FONT, INK, LOOKS, QUIET
from txgraph.render.view import Constant, Op, Path


def to_dot(drawing: Drawing, title: str) -> graphviz.Digraph:
    """The graph before on the left, the graph after on the right, the legend above."""
    dot = graphviz.Digraph("txgraph")
    dot.attr(
        label=_header(drawing, title), labelloc="t", fontname=FONT, fontcolor=INK, newrank="true", tooltip=" ",
        nodesep="0.18", ranksep="0.22", pad="0.2", outputorder="edgesfirst",
    )
    dot.attr("node", shape="box", fontname=FONT, fontsize="10", fontcolor=INK, margin="0.07,0.035", height="0.25")
    dot.attr("edge", fontname=FONT, fontsize="8", fontcolor=QUIET, color="#777777", arrowsize="0.6")
    for side, panel in (("before", drawing.before), ("after", drawing.after)):
        with dot.subgraph(name=f"cluster_{side}") as frame:
            frame.attr(
                label=f"<<B>{side}</B>  {panel.operators} operators>", fontsize="16", labeljust="l",
                style="rounded", color="#BBBBBB", bgcolor="#FCFCFC", margin="10",
            )
            _add_cluster(frame, panel, panel.root, side)
        for link in panel.links:
            _add_link(dot, link, side)
    return dot


def _add_cluster(dot: graphviz.Digraph, panel: Panel, cluster: Cluster, side: str) -> None:
    for box in cluster.boxes:
        _add_box(dot, box, cluster.path, side)
    for child in cluster.children.values():
        with dot.subgraph(name=f"cluster_{side}_{'.'.join(child.path)}") as frame:
            repeat = panel.repeats.get(child.path)
            frame.attr(
                label=_module_label(child.path, cluster.path, panel, repeat), labeljust="l", fontsize="10",
                style="rounded", bgcolor="#00000008", color="#666666" if repeat else "#CCCCCC",
                penwidth="2" if repeat else "1", margin="6", tooltip=_tip(".".join(child.path)),
            )
            _add_cluster(frame, panel, child, side)


def _module_label(path: Path, above: Path, panel: Panel, repeat: Repeat | None) -> str:
    name = ".".join(path[len(above) :])
    text = f"<B>{_escape(name)}</B>"
    if repeat:
        last = repeat.members[-1]
        text = f"<B>{_escape(name)} .. {_escape(last)}</B>"
    if path in panel.classes:
        text += f" {_escape(panel.classes[path])}"
    if repeat:
        text += f'   <FONT POINT-SIZE="16"><B>x{repeat.count}</B></FONT>'
    return f"<{text}>"


def _add_box(dot: graphviz.Digraph, box: Box, path: Path, side: str) -> None:
    look = LOOKS[box.fate.status]
    is_call = box.ops[0].kind == "call_function"
    dot.node(
        f"{side}_{box.name}",
        label=f"<{'<BR/>'.join(_lines(box, path))}>",
        tooltip=_tip("\n".join(_provenance(box))),
        fillcolor=look.fill if is_call else "#EEEEEE",
        color=look.line,
        style=f"filled,{look.border}" + (",rounded" if not is_call else ""),
        penwidth=str(look.width),
        peripheries=str(look.borders),
        **{"class": f"{box.fate.status}" + (f" rewrite{box.number}" if box.number else "")},
    )


def _lines(box: Box, path: Path) -> Iterator[str]:
    for op in box.ops:
        name = f"<B>{_escape(op.op)}</B>"
        if box.fate.status is Status.REMOVED and False:
            name = f"<S>{name}</S>"
        text = [name]
        words = [w.strip("'") for w in op.literals if w.startswith("'")]
        if words:
            text.append(_escape(" ".join(words)))
        inner = op.path[len(path) :]
        if inner and not op.constants:
            text.append(f'<FONT COLOR="{QUIET}">{_escape(".".join(inner))}</FONT>')
        yield " ".join(text) + _constants(op)
        if op.type:
            yield f'<FONT POINT-SIZE="8" COLOR="{QUIET}">{_escape(op.type)}</FONT>'
    if box.note:
        number = f"<B>#{box.number}</B> " if box.number else ""
        yield f'<FONT POINT-SIZE="8" COLOR="{INK}">{number}<I>{_escape(box.note)}</I></FONT>'


def _constants(op: Op) -> str:
    texts, above = [], ""
    for constant in op.constants:
        parts = constant.name.rsplit(".", 2)
        short = parts[-1] if constant.name.rpartition(".")[0] == above and above else ".".join(parts[-2:])
        above = constant.name.rpartition(".")[0]
        texts.append(_escape(short + _shape(constant)))
    return f'  <FONT POINT-SIZE="9">{", ".join(texts)}</FONT>' if texts else ""


def _shape(constant: Constant) -> str:
    return f" [{'x'.join(map(str, constant.shape))}]" if len(constant.shape) > 1 else ""


def _provenance(box: Box) -> Iterator[str]:
    for op in box.ops:
        yield op.text + (f" : {op.type}" if op.type else "")
        if op.path:
            yield f"module: {'.'.join(op.path)}"
        if op.location:
            yield f"source: {op.location}  {op.code}"
        if op.passes:
            yield f"passes: {', '.join(op.passes)}"
    if box.note:
        yield box.note


def _add_link(dot: graphviz.Digraph, link: Link, side: str) -> None:
    dot.edge(
        f"{side}_{link.source}", f"{side}_{link.target}",
        label=_escape(link.type), edgetooltip=_tip(link.type), labeltooltip=_tip(link.type),
    )


def _header(drawing: Drawing, title: str) -> str:
    cells = "".join(
        f'<TD BGCOLOR="{look.fill}" COLOR="{look.line}" BORDER="{round(look.width)}" STYLE="{look.border}">'
        f"{_escape(look.meaning)}</TD>"
        for look in LOOKS.values()
    )
    return (
        f'<<TABLE BORDER="0" CELLBORDER="0" CELLSPACING="6"><TR><TD COLSPAN="5" ALIGN="LEFT">'
        f'<FONT POINT-SIZE="20"><B>{_escape(title)}</B></FONT></TD></TR><TR>{cells}</TR></TABLE>>'
    )


def _escape(text: str) -> str:
    return html.escape(text, quote=True)


def _tip(text: str) -> str:
    return graphviz.escape(html.escape(text, quote=False)).replace("\n", "\\n") or " "
