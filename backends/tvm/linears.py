"""Generated linears as one of the ways that are measured: which tiling, and the function to time. Imports tvm late."""

from __future__ import annotations

import functools
import json
import logging
import tempfile
from dataclasses import asdict
from pathlib import Path
from types import TracebackType

import torch

from txgraph.backends.calls.gemm import GemmShape, Generated
from txgraph.backends.tvm import search
from txgraph.backends.tvm.codegen import JOB, library_of
from txgraph.backends.tvm.library import Function, load_functions
from txgraph.backends.tvm.tiling import LINEAR, Problem, Tiling, tilings
from txgraph.backends.tvm.worker import Worker
from txgraph.cache import Measurements, is_on
from txgraph.errors import BackendFailed

log = logging.getLogger(__name__)

LEAST = 1 << 18  # numbers of a weight; with smaller ones the call takes most of the time
SECONDS = 120.0  # for a search; it takes one or two, and the first one three more


class LinearGenerator:
    """Finds tilings, in a process of its own that lives as long as this is entered.

    Args:
        remembers: tilings that were found before count, and are kept.
    """

    def __init__(self, remembers: bool) -> None:
        self._remembers = remembers
        self._worker: Worker | None = None

    def __enter__(self) -> LinearGenerator:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._worker is not None:
            self._worker.close()

    def __call__(self, shape: GemmShape, columns: bool) -> Generated | None:
        """``None`` where it is not worth trying, or the search failed, which is a warning."""
        if shape.k * max(shape.n) < LEAST:
            return None
        problem = Problem(shape.m, shape.k, max(shape.n), columns)
        try:
            tiling = self._tiling(problem)
        except BackendFailed as error:
            log.warning("no code is generated for %s: %s", shape, error)
            return None
        if tiling is None:
            return None
        return Generated(LINEAR, (columns, tiling.numbers), _Run(problem, shape.activation, tiling))

    def _tiling(self, problem: Problem) -> Tiling | None:
        several = {str(tiling): tiling for tiling in tilings(problem)}
        if len(several) < 2:
            return next(iter(several.values()), None)
        kept = Measurements().find(problem.about) if self._remembers and is_on() else {}
        if kept.keys() == several.keys():
            return several[min(kept, key=kept.__getitem__)]
        if self._worker is None or not self._worker.is_running:
            self._worker = Worker(search.__file__)
        job = {"problem": asdict(problem), "threads": torch.get_num_threads(), "remembers": self._remembers}
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / JOB).write_text(json.dumps(job))
            self._worker.compile_folder(folder, SECONDS)
            return Tiling(*json.loads((folder / search.CHOSEN).read_text()))


class _Run:
    """Linears of some rows, compiled when one is called."""

    def __init__(self, problem: Problem, activation: str, tiling: Tiling) -> None:
        self._problem, self._activation, self._tiling = problem, activation, tiling

    def __call__(self, input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        stored = weight.t() if self._problem.columns else weight
        result = input.new_empty(self._problem.m, len(weight))
        self._function(len(weight), bias is not None)(input, stored, *([] if bias is None else [bias]), result)
        return result

    @functools.cache  # noqa: B019  # as long as it is measured
    def _function(self, n: int, bias: bool) -> Function:
        from txgraph.backends.tvm.gemm import linear_function  # imports tvm

        problem = self._problem
        sizes = [problem.m, problem.k]
        function = linear_function("linear", [], sizes, n, problem.columns, bias, self._activation, self._tiling)
        return load_functions(library_of({"linear": function}), ["linear"])["linear"]
