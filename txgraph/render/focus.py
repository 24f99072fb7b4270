"""One module of a model, as a drawing of its own."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import replace

from txgraph.render.diff import UNCHANGED, Fates
from txgraph.render.view import Op, View


def focus_on(module: str, views: Sequence[View], fates: Sequence[Fates]) -> tuple[list[View], list[Fates]]:
    """What belongs to a module, and as inputs what comes into it.

    Args:
        module: its path, such as ``encoder.layer.3``. views: of one or several graphs. fates: of their nodes.

    Raises:
        ValueError: no node of any graph belongs to such a module; the message names the nearest ones.
    """
    parts = tuple(module.split("."))
    inside = [{name for name, op in view.items() if _modules(op)[: len(parts)] == parts} for view in views]
    if not any(inside):
        known = {_modules(op)[:depth] for view in views for op in view.values() for depth in range(1, len(op.path) + 1)}
        raise ValueError(f"no operator belongs to a module {module!r}{_nearest(module, sorted(map('.'.join, known)))}")
    shown, told = [], []
    for view, each, names in zip(views, fates, inside, strict=True):
        sources = {arrow.source for name in names for arrow in view[name].arrows}
        shown.append(
            {name: op if name in names else _input(op) for name, op in view.items() if name in names | sources}
        )
        told.append({name: each[name] if name in names else UNCHANGED for name in shown[-1]})
    return shown, told


def _modules(op: Op) -> tuple[str, ...]:
    """The path without numbers of calls."""
    return tuple(part.partition("@")[0] for part in op.path)


def _input(op: Op) -> Op:
    return replace(op, kind="placeholder", path=(), arrows=(), constants=(), is_view=False)


def _nearest(module: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(module, known, n=3)
    return f"; did you mean {' or '.join(map(repr, close))}?" if close else f"; there are {', '.join(known[:8])}"
