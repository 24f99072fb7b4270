"""Linears as functions of TVM, scheduled by hand: weights are read where they are, in one of two ways.

Rows: a tile of sums is a few rows of the input by a few rows of the weight, each sum a vector along K, added up at the
end. Nothing is rearranged; best of few rows. Panels: some columns of the weight are turned around into memory of the
task, once for all rows of the input, and numbers of the input are broadcast against vectors of columns. Where a weight
is stored as ``[K, N]``, a panel is copied as it is.

source: Goto and van de Geijn 2008 (Anatomy of high-performance matrix multiplication) for panels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tvm import tirx
from tvm.ir import Expr
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from txgraph.backends.tvm.converters import ACTIVATIONS
from txgraph.backends.tvm.numerics import let
from txgraph.backends.tvm.regions import Region
from txgraph.backends.tvm.sizes import compute
from txgraph.backends.tvm.tiling import Tiling
from txgraph.ir import arguments

LINE = 16  # numbers of a line of the cache
AHEAD = 4  # rows of the next panel that are fetched while a tile is computed
_CACHE, _NEAR, _DATA = 3, 2, 1  # for prefetches: into the first level, into the second one; no code


class Gemm:
    """Writes ``activation(x @ weight.T + bias)``.

    Args:
        rows: of ``x``: a number or an expression. k, n: numbers. columns: the weight is stored as ``[K, N]``.
    """

    def __init__(self, rows: Any, k: int, n: int, columns: bool, activation: str, tiling: Tiling) -> None:
        assert tiling.panels or not columns, "rows of the weight are read as they lie"
        self._m, self._k, self._n = _index(rows), k, n
        self._by_columns, self._activation, self._tiling = columns, activation, tiling
        self._lanes = tiling.lanes
        self._depth = min(tiling.depth, k)

    def write(self, x: Any, weight: Any, bias: Any, y: Any) -> None:
        """Into the function that is being built; ``x`` is ``[rows, K]``, ``y`` ``[rows, N]``."""
        self._x, self._w, self._bias, self._y = x, weight, bias, y
        width = self._tiling.width
        with T.parallel(_index(-(-self._n // width))) as task:
            first = task * width
            columns = _index(width) if self._n % width == 0 else tirx.min(_index(width), self._n - first)
            if self._tiling.panels:
                self._panel(first, columns)
            else:
                self._groups(first, columns)
            if bias is not None or self._activation:
                self._finish(first, columns)

    # -- Rows ----------------------------------------------------------------------------------------------------------

    def _groups(self, first: Expr, columns: Expr) -> None:
        """All rows of x by as many rows of the weight as a tile has, and again."""
        size = self._tiling.columns
        with T.serial(tirx.floordiv(columns, size)) as group:
            self._blocks(lambda k, depth, add: self._tiles(
                lambda m, rows: self._dots(m, first + group * size, rows, size, k, depth, add)))  # fmt: skip
        rest = self._n % size
        if rest:
            with T.If(first + columns == self._n), T.Then():
                self._blocks(lambda k, depth, add: self._tiles(
                    lambda m, rows: self._dots(m, _index(self._n - rest), rows, rest, k, depth, add)))  # fmt: skip

    def _dots(self, m: Expr, n: Expr, rows: int, columns: int, k: Expr, depth: int, add: bool) -> None:
        """Sums over [k, k + depth) of a tile at [m, n]."""
        lanes, places = self._lanes, [(r, c) for r in range(rows) for c in range(columns)]
        sums = {place: _vector(lanes) for place in places}
        for place in places:
            _set(sums[place], _zeros(lanes))
        with T.serial(_index(depth // lanes)) as step:
            at = k + step * lanes
            for c in range(columns):
                _fetch(self._w, [n + self._tiling.columns + c, at], _CACHE)
            for r, c in places:
                product = self._x[m + r, _lanes(at, lanes)] * self._w[n + c, _lanes(at, lanes)]
                _set(sums[r, c], _get(sums[r, c]) + product)
        for start in range(0, len(places), lanes):
            part = places[start : start + lanes]
            whole = _vector(lanes)
            _set(whole, _added_up([_get(sums[place]) for place in part], lanes))
            for r, c, count in _runs(part):
                value = whole[_lanes(_index(part.index((r, c))), count)]
                self._store(m + r, _lanes(n + c, count), value, add)
        if depth % lanes:
            with T.serial(_index(depth - depth % lanes), _index(depth)) as at:
                for r, c in places:
                    value = self._y[m + r, n + c] + self._x[m + r, k + at] * self._w[n + c, k + at]
                    T.buffer_store(self._y, value, [m + r, n + c])

    # -- Panels --------------------------------------------------------------------------------------------------------

    def _panel(self, first: Expr, columns: Expr) -> None:
        panel = T.alloc_buffer((_index(self._depth), _index(self._tiling.width)), "float32")

        def block(k: Expr, depth: int, add: bool) -> None:
            if self._by_columns:
                self._copy(panel, first, columns, k, depth)
            else:
                self._turn(panel, first, k, depth)
            self._tiles(lambda m, rows: self._broadcasts(panel, m, first, columns, rows, k, depth, add))

        self._blocks(block)

    def _copy(self, panel: Any, first: Expr, columns: Expr, k: Expr, depth: int) -> None:
        lanes = self._lanes
        with T.serial(_index(depth)) as at:
            self._in_vectors(
                columns, lambda n, count: T.buffer_store(panel, self._w[k + at, _lanes(first + n, count)],
                                                         [at, _lanes(n, count)]), lanes)  # fmt: skip

    def _turn(self, panel: Any, first: Expr, k: Expr, depth: int) -> None:
        """Rows of the weight as columns of the panel; behind the last one stands anything."""
        lanes, width = self._lanes, self._tiling.width

        def row(at: Any) -> Expr:
            return first + at if self._n % width == 0 else tirx.min(first + at, _index(self._n - 1))

        with T.serial(_index(depth // lanes)) as step:
            for v in range(0, width, lanes):
                given = [T.Bind(self._w[row(v + i), _lanes(k + step * lanes, lanes)]) for i in range(lanes)]
                for i, column in enumerate(_turned(given, lanes)):
                    T.buffer_store(panel, column, [step * lanes + i, _lanes(_index(v), lanes)])
        if depth % lanes:
            with T.serial(_index(depth - depth % lanes), _index(depth)) as at, T.serial(_index(width)) as i:
                T.buffer_store(panel, self._w[row(i), k + at], [at, i])

    def _broadcasts(
        self, panel: Any, m: Expr, first: Expr, columns: Expr, rows: int, k: Expr, depth: int, add: bool
    ) -> None:
        """Sums over [k, k + depth) of a tile at [m, first], as wide as the panel."""
        lanes, width = self._lanes, self._tiling.width
        places = [(r, v) for r in range(rows) for v in range(0, width, lanes)]
        sums = {place: _vector(lanes) for place in places}
        for place in places:
            _set(sums[place], _zeros(lanes))

        def step(at: Expr) -> None:
            for r, v in places:
                product = tirx.Broadcast(self._x[m + r, k + at], lanes) * panel[at, _lanes(_index(v), lanes)]
                _set(sums[r, v], _get(sums[r, v]) + product)

        with T.serial(_index(depth // lanes)) as line:
            self._fetch_next(tirx.floordiv(m, self._tiling.rows), first, k, line)
            with T.serial(_index(lanes)) as at:
                step(line * lanes + at)
        if depth % lanes:
            with T.serial(_index(depth - depth % lanes), _index(depth)) as at:
                step(at)
        for r in range(rows):
            line = T.alloc_buffer((width,), "float32")
            for v in range(0, width, lanes):
                T.buffer_store(line, _get(sums[r, v]), [_lanes(_index(v), lanes)])

            def store(n: Expr, count: int, r: int = r, line: Any = line) -> None:
                self._store(m + r, _lanes(first + n, count), line[_lanes(n, count)], add)

            self._in_vectors(columns, store, lanes)

    def _fetch_next(self, tile: Expr, first: Expr, k: Expr, step: Expr) -> None:
        """Some lines of the block that is rearranged after this one: of the same columns, or of the next panel.

        Args:
            tile: which of the panel's; it has so many steps, of which this is one.
        """
        width, last = (
            self._tiling.width,
            tirx.const(True, "bool") if self._depth >= self._k else k + self._depth >= self._k,
        )
        first, k = first + tirx.Select(last, _index(width), _index(0)), tirx.Select(last, _index(0), k + self._depth)
        if self._by_columns:
            row = k + tile * (self._depth // self._lanes) + step
            places = [[row, first + n] for n in range(0, width, LINE)]
        else:
            places = [[first + tile * AHEAD + i, k + step * self._lanes] for i in range(AHEAD)]
        for place in places:
            _fetch(self._w, place, _NEAR)

    # -- Both ----------------------------------------------------------------------------------------------------------

    def _store(self, m: Expr, n: Expr, value: Expr, add: bool) -> None:
        T.buffer_store(self._y, self._y[m, n] + value if add else value, [m, n])

    def _tiles(self, tile: Callable[[Expr, int], None]) -> None:
        """``tile(m, rows)`` for all rows of x: as many at a time as a tile has, and what is left."""
        size = self._tiling.rows
        with T.serial(tirx.floordiv(self._m, size)) as at:
            tile(at * size, size)
        rest = self._m - tirx.floordiv(self._m, size) * size
        for rows in range(1, size):
            if not isinstance(self._m, tirx.IntImm) or int(self._m) % size == rows:
                with T.If(rest == rows), T.Then():
                    tile(self._m - rows, rows)

    def _blocks(self, block: Callable[[Expr, int, bool], None]) -> None:
        """``block(k, depth, add)`` for all of K; all but the first add to what is there."""
        block(_index(0), self._depth, False)
        whole, rest = divmod(self._k, self._depth)
        if whole > 1:
            with T.serial(_index(1), _index(whole)) as at:
                block(at * self._depth, self._depth, True)
        if rest:
            block(_index(whole * self._depth), rest, True)

    def _in_vectors(self, columns: Expr, store: Callable[[Expr, int], None], lanes: int) -> None:
        """``store(n, count)`` for columns of a task: whole vectors, then one by one."""
        if isinstance(columns, tirx.IntImm):
            for at in range(0, int(columns), lanes):
                store(_index(at), lanes)
            return
        with T.serial(tirx.floordiv(columns, lanes)) as at:
            store(at * lanes, lanes)
        if self._n % lanes:
            with T.serial(tirx.floordiv(columns, lanes) * lanes, columns) as at:
                store(at, 1)

    def _finish(self, first: Expr, columns: Expr) -> None:
        """Bias and activation of the columns of a task, which its core has in the cache."""

        def store(m: Expr) -> Callable[[Expr, int], None]:
            def inner(n: Expr, count: int) -> None:
                with T.vectorized(_index(count)) if count > 1 else T.serial(_index(1)) as lane:
                    value = self._y[m, first + n + lane]
                    value = value if self._bias is None else value + self._bias[first + n + lane]
                    T.buffer_store(self._y, let(value, ACTIVATIONS[self._activation]), [m, first + n + lane])

            return inner

        with T.serial(self._m) as m:
            self._in_vectors(columns, store(m), self._lanes)


def linear_function(
    name: str,
    symbols: Sequence[Any],
    sizes: Sequence[Any],
    n: int,
    columns: bool,
    bias: bool,
    activation: str,
    tiling: Tiling,
) -> tirx.PrimFunc:
    """The function of a linear: symbols, then input, weight, and bias if there is one, then the result.

    Args:
        sizes: of the input, ``[..., K]``: numbers, or expressions of the symbols. columns: the weight is stored as
            ``[K, N]``. bias: there is one.
    """
    *outer, k = sizes
    rows: Any = _index(1)
    for size in outer:
        rows = rows * size
    with IRBuilder() as written, T.prim_func():
        T.func_name(name)
        T.func_attr({"global_symbol": name, "tirx.noalias": True})
        for symbol in symbols:
            T.arg(symbol.name, symbol)
        shapes = {"x": [*outer, k], "w": [k, n] if columns else [n, k], "bias": [n], "y": [*outer, n]}
        given = {each: T.arg(each, T.handle()) for each in shapes if bias or each != "bias"}
        memory = {each: _matched(handle, shapes[each]) for each, handle in given.items()}
        flat = {"x": [rows, k], "y": [rows, n]}
        views = {each: _viewed(memory[each], shape) for each, shape in flat.items()}
        gemm = Gemm(rows, k, n, columns, activation, tiling)
        gemm.write(views["x"], memory["w"], memory.get("bias"), views["y"])
    return written.get()


def linear_of(region: Region, name: str) -> tirx.PrimFunc:
    """The function of a region that is one linear, see :func:`txgraph.backends.tvm.kernel.function_of`."""
    (node,) = region.nodes
    named = arguments(node)
    symbols = {symbol: tirx.Var(symbol, "int64") for symbol in region.symbols}
    sizes = [compute(size, symbols) for size in named["input"].meta["val"].shape]
    n = int(node.meta["val"].shape[-1])
    bias, tiling = named["bias"] is not None, Tiling(*named["tiling"])
    return linear_function(name, list(symbols.values()), sizes, n, named["columns"], bias, named["activation"], tiling)


def _matched(handle: Any, shape: Sequence[Any]) -> Any:
    """What is handed over; vectors may begin anywhere."""
    return T.match_buffer(handle, tuple(_index(size) for size in shape), "float32", align=4, offset_factor=1)


def _viewed(memory: Any, shape: Sequence[Any]) -> Any:
    sizes = tuple(_index(size) for size in shape)
    return T.decl_buffer(sizes, "float32", data=memory.data, elem_offset=memory.elem_offset, align=4, offset_factor=1)


def _index(value: Any) -> Any:
    return tirx.const(value, "int64") if isinstance(value, int) else value


def _lanes(start: Any, count: int) -> Any:
    return tirx.Ramp(start, _index(1), count) if count > 1 else start


def _vector(lanes: int) -> Any:
    """A register: small memory on the stack, which LLVM keeps in one; of the scope "local" it would be on the heap."""
    return T.alloc_buffer((lanes,), "float32")


def _get(vector: Any) -> Expr:
    return vector[_lanes(_index(0), int(vector.shape[0]))]


def _set(vector: Any, value: Expr) -> None:
    T.buffer_store(vector, value, [_lanes(_index(0), int(vector.shape[0]))])


def _zeros(lanes: int) -> Expr:
    return tirx.Broadcast(tirx.const(0.0, "float32"), lanes)


def _fetch(memory: Any, place: list[Any], level: int) -> None:
    numbers = [tirx.const(each, "int32") for each in (0, level, _DATA)]
    T.evaluate(tirx.call_intrin("void", "tirx.prefetch", T.address_of(memory[tuple(place)]), *numbers))


def _runs(places: list[tuple[int, int]]) -> list[tuple[int, int, int]]:
    """Places that lie side by side in a row: the first one, and how many."""
    found: list[tuple[int, int, int]] = []
    for r, c in places:
        if found and found[-1][0] == r:
            found[-1] = (r, found[-1][1], found[-1][2] + 1)
        else:
            found.append((r, c, 1))
    return found


def _exchanged(a: Expr, b: Expr, step: int, lanes: int) -> tuple[Expr, Expr]:
    """Numbers of two vectors whose places have not the bit ``step``, and those that have."""
    low = [lanes + j - step if j & step else j for j in range(lanes)]
    high = [lanes + j if j & step else j + step for j in range(lanes)]
    return _shuffled(a, b, low), _shuffled(a, b, high)


def _shuffled(a: Expr, b: Expr, places: Sequence[int]) -> Expr:
    return tirx.Shuffle([a, b], [tirx.const(place, "int32") for place in places])


def _turned(vectors: Sequence[Expr], lanes: int) -> list[Expr]:
    """As many vectors as each has numbers, turned around."""
    found, step = list(vectors), 1
    while step < lanes:
        for i in range(lanes):
            if not i & step:
                low, high = _exchanged(found[i], found[i + step], step, lanes)
                found[i], found[i + step] = T.Bind(low), T.Bind(high)
        step *= 2
    return found


def _added_up(vectors: Sequence[Expr], lanes: int) -> Expr:
    """One vector of the sums of up to as many vectors as it has numbers; behind them stands anything."""
    found, step = list(vectors), 1
    while len(found) > 1:
        if len(found) % 2:
            found.append(_zeros(lanes))
        pairs = [_exchanged(a, b, step, lanes) for a, b in zip(found[::2], found[1::2], strict=True)]
        found, step = [T.Bind(low + high) for low, high in pairs], step * 2
    while step < lanes:
        other = _shuffled(found[0], found[0], [j ^ step for j in range(lanes)])
        found, step = [T.Bind(found[0] + other)], step * 2
    return found[0]
