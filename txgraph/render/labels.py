"""The words of a drawing, as Graphviz's HTML-like labels and as tooltips."""

from __future__ import annotations

import html
import textwrap
from collections.abc import Iterator, Sequence
from itertools import islice

import graphviz

from txgraph.render.diff import Status
from txgraph.render.panel import Box, Link, Panel
from txgraph.render.style import INK, LOOKS, QUIET, heat
from txgraph.render.summary import Change, operators_text
from txgraph.render.view import Constant, Op, Path

MAX_CHANGES = 16  # lines above the drawing; the rest is in the report
MAX_WIDTH = 80  # letters in a line
MAX_LINES = 60  # of a tooltip: a box of thousands of operators would tell them all, and dot dies of it
SMALLEST_SHARE = 0.01  # of the time, that a box speaks of


def escape(text: str) -> str:
    """Text for an HTML-like label."""
    return html.escape(text)


def tooltip(text: str) -> str:
    """Text for a tooltip: entities and backslash sequences stay as they are, lines are kept."""
    lines = (graphviz.escape(html.escape(line, quote=False)) for line in text.split("\n"))
    return "&#10;".join(lines) or " "


def box_label(box: Box, path: Path, panel: Panel, shows_type: bool = False, shows_name: bool = False) -> str:
    """Operators in bold with their weights, the type where no arrow shows it, and what became of it."""
    lines = _group(box, path, panel) if box.inside else _operators(box, path, shows_type)
    if shows_name:
        lines.append(f"%{escape(box.ops[-1].name)}")
    share = box.seconds / panel.seconds if panel.seconds else 0.0
    if share >= SMALLEST_SHARE:
        lines[0] += f'  <FONT COLOR="{heat(share)}"><B>{share:.0%}</B></FONT>'
    if box.note:
        number = f"<B>#{box.number}</B> " if box.number else ""
        lines.append(_small(f"{number}{_wrapped(box.note)}", INK))
    return f"<{'<BR/>'.join(lines)}>"


def reference_label(link: Link) -> str:
    """The name and type of a value that is drawn elsewhere."""
    return f"<%{escape(_name(link.source))}<BR/>{_small(escape(link.type))}>"


def link_tooltip(link: Link) -> str:
    """From where, to where, and what."""
    return tooltip(f"{_name(link.source)} -> {_name(link.target)}: {link.type}")


def box_tooltip(box: Box) -> str:
    """The calls with their types, modules, source lines and passes."""
    return tooltip("\n".join(islice(_provenance(box), MAX_LINES)))


def module_label(path: Path, above: Path, panel: Panel) -> str:
    """The path below the enclosing frame, the class, and how often a folded module is there."""
    parts = list(path[len(above) :])
    repeat = panel.repeats.get(path)
    if repeat:
        parts[-1] = repeat.text
    text = _bold(".".join(parts))
    if path in panel.classes:
        text += f"  {escape(panel.classes[path])}"
    if repeat:
        text = f'<FONT POINT-SIZE="18"><B>x{repeat.count}</B></FONT>   {text}'
    return f"<{text}>"


def path_text(path: Path, panel: Panel, above: Path = ()) -> str:
    """The path below another one, with ``0..11`` for folded layers."""
    parts = [panel.repeats[path[: at + 1]].text if path[: at + 1] in panel.repeats else p for at, p in enumerate(path)]
    return ".".join(parts[len(above) :])


def time_text(seconds: float) -> str:
    """``1.23 ms``, ``45.6 µs``."""
    return f"{seconds * 1e3:.3g} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.3g} µs"


def panel_label(panel: Panel) -> str:
    """``before  311 operators``, ``before → after  311 → 254 operators``."""
    name = "before → after" if panel.side == "diff" else panel.side
    was = "" if panel.was is None else f"{panel.was} → "
    return f"<<B>{name}</B>  {was}{panel.operators} operators>"


def header(panels: Sequence[Panel], changes: Sequence[Change], title: str) -> str:
    """Title, legend, the list of changes, and how numbers and folded layers are to be read."""
    lines = [_change(change) for change in changes[:MAX_CHANGES]]
    left = len(changes) - MAX_CHANGES
    if left > 0:
        lines.append(f'<TR><TD ALIGN="LEFT" COLSPAN="4">and {left} more kinds of change</TD></TR>')
    if not lines:
        lines = ["<TR><TD>the graphs are equal</TD></TR>"]
    rows = (
        f'<FONT POINT-SIZE="28">{_bold(title)}</FONT>' if title else "",
        _legend(),
        f'<TABLE BORDER="0" CELLBORDER="0" CELLSPACING="3" CELLPADDING="3">{"".join(lines)}</TABLE>',
        f'<FONT COLOR="{QUIET}">{"; ".join(notes)}</FONT>' if (notes := _reading(panels)) else "",
    )
    cells = "".join(f'<TR><TD ALIGN="LEFT">{row}</TD></TR>' for row in rows if row)
    return f'<<TABLE BORDER="0" CELLBORDER="0" CELLSPACING="3" CELLPADDING="2">{cells}</TABLE>>'


def _reading(panels: Sequence[Panel]) -> list[str]:
    """How to read what is drawn."""
    notes = []
    boxes = [box for panel in panels for box in panel.boxes]
    if len(panels) == 2 and any(box.number for box in boxes):
        notes.append("#1 on the left became #1 on the right")
    if any(box.replaced for box in boxes):
        notes.append("what an operator was made of is struck out above it")
    repeats = [repeat.count for panel in panels for repeat in panel.repeats.values()]
    if repeats:
        notes.append(f"x{max(repeats)}: {max(repeats)} equal layers, drawn once")
    times = dict.fromkeys(panel.time for panel in panels if panel.seconds)
    if times:
        notes.append(f"percentages: share of the {' or '.join(times)} time")
    return notes


def _operators(box: Box, path: Path, shows_type: bool) -> list[str]:
    lines = [_gone(box.replaced)] if box.replaced else []
    for op in box.ops:
        lines.append(_operator(op, path, box.fate.status is Status.REMOVED))
        if op.type and (op is not box.ops[-1] or shows_type or op.kind == "placeholder"):
            lines.append(_small(escape(op.type)))
    return lines


def _group(box: Box, path: Path, panel: Panel) -> list[str]:
    """Its module or title, and the operators inside, the most frequent first."""
    names = operators_text(op.op for op in box.ops)
    if box.fate.status is Status.REMOVED and not box.title:
        return [f"<S>{escape(names)}</S>"]
    inner = path_text(box.path, panel, path)
    text = _bold(inner) + (f"  {escape(box.title)}" if box.title else "")
    if box.path in panel.repeats:
        text = f"<B>x{panel.repeats[box.path].count}</B>  {text}"
    count = box.operators(panel.copies(box.path))
    kind = "unchanged" if box.fate.status is Status.UNCHANGED else "operators"
    first = text if count == 1 and text else f"{text} {count} {kind}".strip()
    return [first, *([_gone(box.replaced)] if box.replaced else []), _small(escape(names))]


def _gone(ops: Sequence[Op]) -> str:
    names = _wrapped(operators_text(op.op for op in ops))
    return f'<FONT POINT-SIZE="9" COLOR="{LOOKS[Status.REMOVED].line}"><S>{names}</S></FONT>'


def _name(box: str) -> str:
    """Of a node, from the id of its box."""
    return box.partition("_")[2]


def _operator(op: Op, path: Path, removed: bool) -> str:
    name = _bold(op.op)
    text = [f"<S>{name}</S>" if removed else name]
    text += [escape(literal[1:-1]) for literal in op.literals if literal.startswith(("'", '"'))]
    inner = op.path[len(path) :]
    if inner and not op.constants:
        text.append(f'<FONT COLOR="{QUIET}">{escape(".".join(inner))}</FONT>')
    if op.constants:
        text.append(f' <FONT POINT-SIZE="9">{_wrapped(_constants(op.constants))}</FONT>')
    return " ".join(text)


def _constants(constants: tuple[Constant, ...]) -> str:
    """``query.weight [768x768], bias``: a path is named once, the shape given of matrices only."""
    texts, above = [], ""
    for constant in constants:
        names = [part.split(".") for part in constant.parts]
        module = ".".join(names[0][:-1])
        short = "+".join(dict.fromkeys(".".join(n[-2:-1]) for n in names)) + f".{names[0][-1]}"
        shape = f" [{'x'.join(map(str, constant.shape))}]" if len(constant.shape) > 1 else ""
        texts.append((names[0][-1] if module and module == above else short.removeprefix(".")) + shape)
        above = module
    return ", ".join(texts)


def _bold(text: str) -> str:
    return f"<B>{escape(text)}</B>" if text else ""  # Graphviz takes no empty tags


def _wrapped(text: str) -> str:
    """Text in lines that are not too long: boxes as wide as a page push all others apart."""
    return "<BR/>".join(map(escape, textwrap.wrap(text, MAX_WIDTH, break_long_words=False)))


def _small(text: str, color: str = QUIET) -> str:
    return f'<FONT POINT-SIZE="8" COLOR="{color}">{text}</FONT>'


def _provenance(box: Box) -> Iterator[str]:
    for op in box.ops:
        yield op.text + (f": {op.type}" if op.type else "")
        if op.path:
            yield f"  module: {'.'.join(op.path)}"
        if op.location:
            yield f"  source: {op.location}  {op.code}"
        if op.passes:
            yield f"  passes: {', '.join(op.passes)}"
        if op.error:
            yield f"  error: {op.error}"
    if box.note:
        yield box.note + (f" (after {', '.join(box.fate.trail)})" if len(box.fate.trail) > 1 else "")


def _legend() -> str:
    cells = "".join(
        f'<TD><TABLE BORDER="{round(look.width)}" COLOR="{look.line}" BGCOLOR="{look.fill}" STYLE="{look.border}" '
        f'CELLBORDER="{look.borders - 1}" CELLSPACING="{2 * (look.borders - 1)}" CELLPADDING="5"><TR><TD>'
        f'<FONT POINT-SIZE="16">{escape(look.meaning)}</FONT></TD></TR></TABLE></TD>'
        for look in LOOKS.values()
    )
    return f'<TABLE BORDER="0" CELLSPACING="4"><TR>{cells}</TR></TABLE>'


def _change(change: Change) -> str:
    look = LOOKS[change.status]
    number = f"<B>#{change.number}</B>" if change.number else ""
    where = f'  <FONT COLOR="{QUIET}">in {escape(change.where)}</FONT>' if change.where else ""
    cells = (
        f'<TD ALIGN="LEFT" BGCOLOR="{look.fill}">{change.verb} {number} </TD>',
        f'<TD ALIGN="RIGHT">{change.count} x</TD>',
        f'<TD ALIGN="LEFT">{_bold(change.passes)}</TD>',
        f'<TD ALIGN="LEFT">{escape(change.what)}{where}</TD>',
    )
    return f"<TR>{''.join(cells)}</TR>"
