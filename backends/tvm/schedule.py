"""How a kernel's loops run: rows in parallel, what a row needs computed beside it, numbers of a row in vectors."""

from __future__ import annotations

import contextlib
import logging
import math
from typing import Any

import tvm
from tvm import s_tir, tirx

from txgraph.backends.tvm.values import LANES_NAME, as_int

log = logging.getLogger(__name__)

PARALLEL = 1 << 14  # numbers: computing fewer takes less time than waking another thread
WIDTHS = (16, 8, 4)


def scheduled(function: tirx.PrimFunc, name: str) -> tirx.PrimFunc:
    """The function under that name, with parallel loops and vectors."""
    schedule = s_tir.Schedule(tvm.IRModule({"main": function}), error_render_level="none")
    root = schedule.get_sblock("root")
    blocks = schedule.get_child_blocks(root)
    outputs = {schedule.get(block).name_hint for block in schedule.get_output_blocks(root)}
    rows: list[tuple[list[Any], float]] = []
    for block in reversed(blocks):
        if schedule.get(block).name_hint in outputs or not _compute_beside(schedule, block, [r for r, _ in rows if r]):
            rows.append(_rows(schedule, block))
    try:
        for loops, numbers in rows:
            if loops and numbers >= PARALLEL:
                schedule.parallel(schedule.fuse(*loops))
        for block in blocks:
            _vectorize(schedule, block)
    except s_tir.ScheduleError as error:  # it is right as it is, and slower than it could be
        log.warning("%s: TVM refuses a parallel loop or a vector: %s", name, error)
    return schedule.mod["main"].with_attr("global_symbol", name)


def _compute_beside(schedule: s_tir.Schedule, block: Any, rows: list[list[Any]]) -> bool:
    """Compute a block in the loops over the rows of what reads it, if these are the same for all that does."""
    for loops in rows:
        with contextlib.suppress(s_tir.ScheduleError):
            schedule.compute_at(block, loops[-1])
            return True
    return False


def _rows(schedule: s_tir.Schedule, block: Any) -> tuple[list[Any], float]:
    """The loops over the rows of a block, and how many numbers are computed."""
    loops = schedule.get_loops(block)
    extents = [as_int(schedule.get(loop).extent) for loop in loops]
    numbers = math.prod(math.inf if extent is None else extent for extent in extents)
    statement = schedule.get(block)
    spatial = sum(each.iter_type == tirx.IterVar.DataPar for each in statement.iter_vars)
    whole_rows = spatial < len(loops) and not _is_lanes(schedule, block)
    return (loops[:spatial] if whole_rows else loops[: max(spatial - 1, 0)]), numbers


def _vectorize(schedule: s_tir.Schedule, block: Any) -> None:
    loops = schedule.get_loops(block)
    if schedule.get(block).init is not None:
        if _is_lanes(schedule, block):
            lane, k = loops[-2:]
            schedule.reorder(k, lane)
            schedule.vectorize(lane)
            schedule.vectorize(schedule.get_loops(schedule.decompose_reduction(block, k))[-1])
        return
    if not loops or len(schedule.get_child_blocks(loops[-1])) > 1:  # rows of which this is one number
        return
    extent = as_int(schedule.get(loops[-1]).extent)
    width = next((w for w in WIDTHS if extent is not None and extent % w == 0), None)
    if width is not None:
        schedule.vectorize(loops[-1] if extent == width else schedule.split(loops[-1], [None, width])[1])


def _is_lanes(schedule: s_tir.Schedule, block: Any) -> bool:
    return str(schedule.get(block).name_hint).startswith(LANES_NAME)
