"""How a kernel runs on a GPU: a block of threads a row, or a thread for each few numbers that lie side by side.

Where rows are reduced, what is kept of a row stays in the shared memory of its block, and single numbers in registers;
all threads of the block reduce, in warps first. Threads read and write vectors where columns allow. A function whose
results do not lie in the same rows becomes several kernels, one after the other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import tvm
from tvm import s_tir, sym, tirx

from txgraph.backends.tvm.values import ACROSS, as_int

WARP = 32
THREADS = 256  # of a block, at most
USUAL = 128  # threads of a block where columns are not known
LANES = (4, 2)  # numbers of a vector: 16 bytes of float32
REGISTERS = 8  # numbers that a thread keeps
SHARED = 48 << 10  # bytes that a block may have on every GPU


def scheduled_for_cuda(function: tirx.PrimFunc, name: str) -> tirx.PrimFunc:
    """The function under that name, with its loops on blocks and threads.

    Raises:
        tvm.s_tir.ScheduleError: TVM refuses a step.
    """
    scheduler = _Scheduler(s_tir.Schedule(tvm.IRModule({"main": function}), error_render_level="none"))
    return scheduler.scheduled().with_attr("global_symbol", name)


@dataclass(frozen=True, eq=False)
class _Block:
    """A block before anything was done to it.

    Attributes:
        spatial: extents of the axes of what it gives. reduces: whether it reduces. across: and does so over the last
            axis of what it reads. bytes: of one number. lanes: how many numbers vectors may hold. above: names of all
            that it reads, and of what that reads.
    """

    name: str
    handle: Any
    spatial: tuple[Any, ...]
    reduces: bool
    across: bool
    bytes: int
    lanes: tuple[int, ...]
    above: frozenset[str]


@dataclass(eq=False)
class _Kernel:
    """What runs in one loop over rows, or over vectors.

    Attributes:
        loop: that loop. rows: extents of what it was made of; over vectors, of all axes. by_rows: what it is over.
        blocks: what runs there. shared: bytes of a row that they keep.
    """

    loop: Any
    rows: tuple[Any, ...]
    by_rows: bool
    blocks: list[_Block] = field(default_factory=list)
    shared: int = 0


class _Scheduler:
    def __init__(self, schedule: s_tir.Schedule) -> None:
        self._schedule = schedule
        root = schedule.get_sblock("root")
        given = {schedule.get(handle).name_hint for handle in schedule.get_output_blocks(root)}
        self._blocks: dict[str, _Block] = {}
        for handle in schedule.get_child_blocks(root):
            self._blocks[schedule.get(handle).name_hint] = self._described(handle)
        self._outputs = [block for name, block in self._blocks.items() if name in given]

    def scheduled(self) -> tirx.PrimFunc:
        kernels = self._merged([self._begun(block, self._row_axes(block)) for block in self._outputs])
        for block in reversed(self._blocks.values()):
            if block not in self._outputs and not any(self._takes(kernel, block) for kernel in kernels):
                kernels.append(self._begun(block, len(block.spatial) if block.across else None))
        for kernel in kernels:
            self._bind(kernel)
        return self._schedule.mod["main"]

    def _described(self, handle: Any) -> _Block:
        statement = self._schedule.get(handle)
        above = set[str]()
        for producer in self._schedule.get_producers(handle):
            name = self._schedule.get(producer).name_hint
            above |= {name, *self._blocks[name].above}
        spatial = [each.dom.extent for each in statement.iter_vars if each.iter_type == tirx.IterVar.DataPar]
        size = tvm.DataType(str(statement.writes[0].source.dtype)).bits
        across = str(statement.name_hint).startswith(ACROSS)
        # TVM 0.27 reads four numbers of one byte as four of two
        touched = {str(each.source.dtype) for each in (*statement.reads, *statement.writes)}
        return _Block(
            *(str(statement.name_hint), handle, tuple(spatial), statement.init is not None, across),
            *(max(size // 8, 1), () if "bool" in touched else LANES, frozenset(above)),
        )

    # Which blocks run in one kernel.

    def _row_axes(self, output: _Block) -> int | None:
        """How many axes of an output count rows that are reduced for it, or for another in the same rows."""
        ranks = [self._rank(output), *(self._rank(each) for each in self._outputs if self._is_beside(output, each))]
        return next((rank for rank in ranks if rank is not None and rank <= len(output.spatial)), None)

    def _rank(self, block: _Block) -> int | None:
        above = (self._blocks[name] for name in block.above)
        return max((len(each.spatial) for each in above if each.across), default=None)

    def _is_beside(self, output: _Block, other: _Block) -> bool:
        """Whether an output that reduces nothing lies in the rows of another."""
        rank = self._rank(other)
        return rank is not None and len(output.spatial) > rank and _same(output.spatial[:rank], other.spatial[:rank])

    def _begun(self, block: _Block, row_axes: int | None) -> _Kernel:
        """A kernel of one block, which has that many axes of rows; of none, if no rows are reduced in it."""
        schedule = self._schedule
        loops = list(schedule.get_loops(block.handle)[: len(block.spatial)])
        if not loops or row_axes == 0:
            outermost = schedule.get_loops(block.handle)
            unit = schedule.add_unit_loop(outermost[0] if outermost else block.handle)
            loops, rows = [unit, *loops], 1
        else:
            rows = len(loops) if row_axes is None else row_axes
        extents = tuple(schedule.get(loop).extent for loop in loops[:rows])
        if row_axes is None:
            lanes = 1 if block.reduces else next((n for n in block.lanes if _divides(n, extents[-1])), 1)
            loops[-1], _ = schedule.split(loops[-1], [None, lanes])
        loop = schedule.fuse(*loops[:rows])
        return _Kernel(loop, extents, row_axes is not None, [block])

    def _merged(self, kernels: list[_Kernel]) -> list[_Kernel]:
        """Outputs in the same rows are one kernel, if none reads another."""
        if {name for output in self._outputs for name in output.above} & {output.name for output in self._outputs}:
            return kernels
        merged: list[list[_Kernel]] = []
        for kernel in kernels:
            for group in merged:
                if group[0].by_rows == kernel.by_rows and _same(self._sizes(group[0]), self._sizes(kernel)):
                    group.append(kernel)
                    break
            else:
                merged.append([kernel])
        return [self._joined(group) for group in merged]

    def _sizes(self, kernel: _Kernel) -> list[Any]:
        return [*kernel.rows, self._schedule.get(kernel.loop).extent]

    def _joined(self, group: list[_Kernel]) -> _Kernel:
        if len(group) == 1:
            return group[0]
        # it takes the place of the last one, so that all that others need comes before
        loop = self._schedule.merge(*(kernel.loop for kernel in group))
        return _Kernel(loop, group[0].rows, group[0].by_rows, [block for kernel in group for block in kernel.blocks])

    def _takes(self, kernel: _Kernel, block: _Block) -> bool:
        """Compute a block in the loop of a kernel, if nothing is computed twice and there is memory for it."""
        before = self._schedule.copy()
        try:
            self._schedule.compute_at(block.handle, kernel.loop, preserve_unit_loops=True)
        except s_tir.ScheduleError:
            return False
        extents = [self._schedule.get(loop).extent for loop in self._columns(kernel.loop, block)]
        known = [each for extent in extents if (each := as_int(extent)) is not None]
        each = math.prod(known) if len(known) == len(extents) else None
        once = _same([_product([*kernel.rows, *extents]) // self._lanes(kernel)], [_product(block.spatial)])
        room = SHARED - kernel.shared if kernel.by_rows else REGISTERS * block.bytes
        if each is None or not once or each * block.bytes > room:
            self._schedule = before
            return False
        shared = kernel.by_rows and (each > 1 or block.across)
        self._schedule.set_scope(block.handle, 0, "shared" if shared else "local")
        kernel.shared += each * block.bytes if shared else 0
        kernel.blocks.append(block)
        return True

    def _lanes(self, kernel: _Kernel) -> Any:
        """How many numbers are computed in one round of the loop, if it is not over rows."""
        return 1 if kernel.by_rows else _product(kernel.rows) // self._schedule.get(kernel.loop).extent

    def _columns(self, loop: Any, block: _Block) -> list[Any]:
        """The loops of a block within another, without those that reduce."""
        loops, around = self._schedule.get_loops(block.handle), self._schedule.get(loop).loop_var
        at = next(at for at, each in enumerate(loops) if self._schedule.get(each).loop_var.same_as(around))
        reduced = sum(e.iter_type == tirx.IterVar.CommReduce for e in self._schedule.get(block.handle).iter_vars)
        return list(loops[at + 1 : len(loops) - reduced])

    # Blocks and threads.

    def _bind(self, kernel: _Kernel) -> None:
        schedule = self._schedule
        if not kernel.by_rows:
            outer, inner = schedule.split(kernel.loop, [None, THREADS])
            schedule.bind(outer, "blockIdx.x")
            schedule.bind(inner, "threadIdx.x")
            for block in kernel.blocks:
                columns = self._columns(inner, block)
                if columns and not block.reduces:
                    schedule.vectorize(schedule.fuse(*columns))
            return
        schedule.bind(kernel.loop, "blockIdx.x")
        shared = [b for b in kernel.blocks if str(schedule.get(b.handle).writes[0].source.scope()) != "local"]
        split = [(block, *self._vectors(kernel, block)) for block in shared]
        threads = _threads([as_int(schedule.get(vectors).extent) for _, vectors, _ in split])
        for block, vectors, lane in split:
            schedule.bind(schedule.split(vectors, [None, threads])[1], "threadIdx.x")
            if not block.reduces and as_int(schedule.get(lane).extent) != 1:
                schedule.vectorize(lane)

    def _vectors(self, kernel: _Kernel, block: _Block) -> list[Any]:
        """The loop over columns of a block, or over what it reduces, as one over vectors and one within."""
        schedule = self._schedule
        columns = [schedule.get_loops(block.handle)[-1]] if block.across else self._columns(kernel.loop, block)
        if not columns:
            reduced = schedule.get_loops(block.handle)[-1] if block.reduces else block.handle
            columns = [schedule.add_unit_loop(reduced)]
        whole = schedule.fuse(*columns)
        extent = schedule.get(whole).extent
        lanes = next((n for n in block.lanes if _divides(n * WARP, extent)), 1)
        if (known := as_int(extent)) is not None and known > WARP * LANES[0]:
            lanes = next((n for n in block.lanes if _divides(n, extent)), 1)
        return list(schedule.split(whole, [None, 1 if block.reduces and not block.across else lanes]))


def _threads(counts: list[int | None]) -> int:
    """How many threads have the fewest rounds and idle least, for that many vectors at most."""
    known = [count for count in counts if count is not None]
    if len(known) < len(counts):
        return USUAL
    most = max(known)
    whole = [threads for threads in range(USUAL, THREADS + 1, WARP) if most % threads == 0]
    return whole[-1] if whole else min(THREADS, -(-most // WARP) * WARP)


def _divides(number: int, extent: Any) -> bool:
    known = as_int(extent)
    return known is not None and known % number == 0


def _product(extents: Any) -> Any:
    return math.prod(extents, start=tirx.const(1, "int64"))


def _same(some: Any, others: Any) -> bool:
    pairs = zip(some, others, strict=False)
    return len(some) == len(others) and all(sym.Analyzer().can_prove_equal(a, b) for a, b in pairs)
