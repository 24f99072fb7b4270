"""How closely a graph is looked at: operators, modules or kernels."""

from __future__ import annotations

from collections.abc import Sequence

from txgraph.ir import Kernel
from txgraph.render.contract import Group, contract
from txgraph.render.panel import Box, Panel
from txgraph.render.view import Path

LEVELS = ("op", "module", "kernel")


def modules(panel: Panel, depth: int | None = None, always: bool = True) -> Panel:
    """The panel with a box for each module.

    Args:
        depth: modules further inside belong to the one at this depth: 1 is a child of the model.
        always: whether operators of modules less deep are drawn as one box, too.
    """

    def group(box: Box) -> Group | None:
        path = box.path if depth is None else box.path[:depth]
        if not box.is_operator or not (always or len(path) == depth):
            return None
        return Group(path, panel.classes.get(path, ""), path)

    return contract(panel, group)


def kernels(panel: Panel, launches: Sequence[Kernel]) -> Panel:
    """The panel with a box for each kernel; what none computes (views, sizes) stays as it is.

    Raises:
        ValueError: there are none.
    """
    if not launches:
        raise ValueError("no kernels are known: a graph has them after it was compiled by optimize()")
    launch = {name: at for at, kernel in reversed(list(enumerate(launches))) for name in kernel.nodes}

    def group(box: Box) -> Group | None:
        at = next((launch[op.name] for op in box.ops if op.name in launch), None)
        return None if at is None else Group(at, launches[at].name)

    return contract(panel, group)


def parts(panel: Panel, most: int = 200) -> Panel:
    """The panel with the boxes of a module that has more of its own cut into parts, in their order."""
    crowded: dict[Path, list[Box]] = {}
    for box in panel.boxes:
        crowded.setdefault(box.path, []).append(box)
    place = {box.id: at // most for boxes in crowded.values() if len(boxes) > most for at, box in enumerate(boxes)}

    def group(box: Box) -> Group | None:
        at = place.get(box.id)
        return None if at is None else Group((box.path, at), f"part {at + 1}", box.path)

    return contract(panel, group)
