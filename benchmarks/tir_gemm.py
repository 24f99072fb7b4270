"""Linears that TVM generates, beside libraries and our C++ kernel: ``python -m benchmarks.tir_gemm``.

Each way has a process of its own; they take turns, in rounds of some calls. Before each call other memory is read: a
weight comes from memory, as in a model. "packed" is a copy of it as oneDNN likes it; the others read ``[N, K]``.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "tir_gemm.json"
ROWS = (1, 32, 128, 424)
SIZES = ((768, 768), (768, 2304), (768, 3072), (3072, 768))  # K, N
OTHER = 1 << 21  # numbers
PAUSE = 0.04  # seconds, until the threads of the one before no longer wait in loops
GENERATED, MKL = "generated", "MKL"
Function = Callable[[], object]


def _mkl(x: Any, weight: Any) -> Function:
    import torch.nn.functional as F

    return lambda: F.linear(x, weight)


def _onednn_packed(x: Any, weight: Any) -> Function:
    import torch

    held = torch.ops.mkldnn._reorder_linear_weight(weight, len(x))
    return lambda: torch.ops.mkldnn._linear_pointwise.default(x, held, None, "none", [], "")


def _onednn(x: Any, weight: Any) -> Function:
    import torch

    return lambda: torch.ops.mkldnn._linear_pointwise.default(x, weight, None, "none", [], "")


def _openblas(x: Any, weight: Any) -> Function:
    left, right = x.numpy(), weight.numpy().T
    return lambda: left @ right


def _native(x: Any, weight: Any) -> Function:
    from txgraph.backends.kernels.linear import linears_native

    return lambda: linears_native(x, [weight], [None], "")


def _generated(x: Any, weight: Any) -> Function:
    from txgraph.backends.calls.gemm import GemmShape
    from txgraph.backends.tvm.linears import LinearGenerator

    with LinearGenerator(remembers=True) as generator:
        found = generator(GemmShape(len(x), x.shape[1], (len(weight),), "", False), False)
    assert found is not None, "it is large enough, and the search does not fail"
    return lambda: found.run(x, weight, None)


WAYS: dict[str, Callable[[Any, Any], Function]] = {
    MKL: _mkl,
    "oneDNN": _onednn,
    "oneDNN packed": _onednn_packed,
    "OpenBLAS": _openblas,
    "C++": _native,
    GENERATED: _generated,
}


def answer(way: str, threads: int, asked: Connection) -> None:
    """In a process of its own: the seconds of each call, for each ``(m, k, n, calls)`` that is asked."""
    import torch

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    other, made, sizes = torch.randn(OTHER), None, None
    with torch.no_grad():
        for *wanted, calls in iter(asked.recv, None):
            if wanted != sizes:
                sizes = m, k, n = wanted
                x, weight = torch.randn(m, k), torch.randn(n, k)
                made = WAYS[way](x, weight)
                made()
            found = []
            for _ in range(calls):
                other.sum(), x.sum()
                started = time.perf_counter()
                made()
                found.append(time.perf_counter() - started)
            asked.send(found)


def measured(threads: int, rounds: int, rows: Sequence[int]) -> list[dict[str, Any]]:
    """For each shape and way: medians and minima of seconds, and GFLOP/s of both."""
    os.environ.update(OMP_NUM_THREADS=str(threads), OPENBLAS_NUM_THREADS=str(threads))
    context = multiprocessing.get_context("spawn")
    ends, results = {}, []
    for way in WAYS:
        ends[way], theirs = context.Pipe()
        context.Process(target=answer, args=(way, threads, theirs), daemon=True).start()
    for (k, n), m in itertools.product(SIZES, rows):
        calls = max(2, min(10, int(3e8 / (m * k * n))))
        seconds: dict[str, list[float]] = {way: [] for way in WAYS}
        for at in range(rounds + 1):
            for way, end in ends.items():
                time.sleep(PAUSE)
                end.send((m, k, n, calls))
                found = end.recv()
                seconds[way] += found if at else []  # the first round warms up
        row: dict[str, Any] = {"m": m, "k": k, "n": n}
        for name, middle in (("best", min), ("median", statistics.median)):
            row[name] = {way: round(2e-9 * m * k * n / middle(each), 1) for way, each in seconds.items()}
        results.append(row)
        print(row, flush=True)
    for end in ends.values():
        end.send(None)
    return results


def summary(rows: Sequence[dict[str, Any]], figure: str) -> dict[str, Any]:
    """The geometric mean of ratios to each way, and where it is at least as fast as packed oneDNN and OpenBLAS."""
    others = [way for way in WAYS if way != GENERATED]
    ratios = {way: [row[figure][GENERATED] / row[figure][way] for row in rows] for way in others}
    ahead = sum(min(pair) >= 1 for pair in zip(ratios["oneDNN packed"], ratios["OpenBLAS"], strict=True))
    means = {way: round(math.exp(statistics.fmean(map(math.log, each))), 3) for way, each in ratios.items()}
    return {"times as fast as": means, "at least as fast as packed oneDNN and OpenBLAS": f"{ahead} of {len(rows)}"}


def main(arguments: Sequence[str] | None = None) -> None:
    """Print GFLOP/s, and write them down."""
    from txgraph.bench.hardware import versions

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, nargs="+", default=(1, 2))
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS, help="of the input")
    parser.add_argument("--hardware", default="2-core x86-64 AVX-512 (VNNI, BF16)")
    parser.add_argument("--output", type=Path, default=RESULTS)
    given = parser.parse_args(arguments)
    runs = []
    for threads in given.threads:
        rows = measured(threads, given.rounds, given.rows)
        figures = {figure: summary(rows, figure) for figure in ("best", "median")}
        print(json.dumps(figures, indent=1))
        runs.append({"threads": threads, "rounds": given.rounds, "summary": figures, "GFLOP/s": rows})
    found = {"hardware": given.hardware, "versions": versions(), "runs": runs}
    given.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
