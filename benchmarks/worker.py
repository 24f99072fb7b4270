"""One competitor on one row, in a process of its own: ``python -m benchmarks.worker ROW COMPETITOR THREADS FOLDER``.

It reads one command per line on standard input and answers each by one line of JSON. Between commands it is
blocked on that pipe. :class:`benchmarks.processes.Worker` is the other end.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
from torch.utils import _pytree as pytree

from benchmarks.competitors import COMPETITORS, INSTALL, Competitor, Run, ZeroPadding
from benchmarks.hardware import seconds_waited_for_cores
from benchmarks.memory_use import current_rss, peak_rss, weight_bytes
from benchmarks.references import look_up
from benchmarks.rows import ROWS, Row

MAX_CALLS = 200  # per turn


class PackageMissing(Exception):
    """A competitor's package is not installed."""


class Service:
    """The commands of a worker; each gives the fields of its answer."""

    def __init__(self, row: Row, competitor: Competitor, folder: Path) -> None:
        self._row = row
        self._competitor = competitor
        self._folder = folder
        self._model, self._inputs = row.make()
        self._run: Run | None = None
        self._call_seconds = 0.0  # of the latest call
        self._device = next(iter(self._inputs.values())).device.type

    def hello(self) -> dict[str, Any]:
        return {
            "row": self._row.name,
            "competitor": self._competitor.name,
            "promises_zeros": isinstance(self._competitor, ZeroPadding),
            "tolerance": self._row.tolerance,
            "new_tokens": self._row.new_tokens,
            "dtype": ", ".join(sorted({str(p.dtype).removeprefix("torch.") for p in self._model.parameters()})),
            "weights_bytes": weight_bytes(self._model),
            "inputs": {
                name: f"{str(t.dtype).removeprefix('torch.')}{list(t.shape)}" for name, t in self._inputs.items()
            },
        }

    def reference(self) -> dict[str, Any]:
        """Save eager's outputs, those of eager in float64 on the same weights and inputs, and what of them is valid."""
        eager = _leaves(self._model(**self._inputs))
        valid = [] if self._row.valid is None else [self._row.valid(self._inputs)]
        exact = {name: t.double() if t.is_floating_point() else t for name, t in self._inputs.items()}
        return {
            "eager": self._save("eager", eager),
            "valid": self._save("valid", valid),
            "float64": self._save("float64", _leaves(self._model.double()(**exact))),
        }

    def build(self) -> dict[str, Any]:
        """Compile and call for the first time: the cold start."""
        before = peak_rss()
        started = time.perf_counter()
        self._run = self._competitor.build(self._model, self._inputs)
        built = time.perf_counter()
        outputs = self._run(self._inputs)
        self._wait()
        called = time.perf_counter()
        memory = {"before": before, "after_compile": peak_rss(), "held_after_compile": current_rss()}
        return {
            "build_seconds": built - started,
            "first_call_seconds": called - built,
            "rss_bytes": memory,
            "outputs": self._save("first", _leaves(outputs)),
            "details": dict(self._competitor.details()),
        }

    def turn(self, seconds: float, calls: int = 1) -> dict[str, Any]:
        """Timed calls: at least ``calls``, and until ``seconds`` have passed.

        Before them an untimed one, unless a call takes that long: what others left in the caches is then little of it.
        ``machine_busy`` is the share of that time in which some task of the machine waited for a core.
        """
        run, inputs = self._ready(), self._inputs
        times: list[float] = []
        gc.collect()
        gc.disable()
        try:
            if self._call_seconds < seconds or not self._call_seconds:
                run(inputs)
                self._wait()
            waited = seconds_waited_for_cores()
            begun = time.perf_counter()
            stop = begun + seconds
            while len(times) < calls or (len(times) < MAX_CALLS and time.perf_counter() < stop):
                started = time.perf_counter()
                run(inputs)
                self._wait()
                times.append(time.perf_counter() - started)
            passed = time.perf_counter() - begun
        finally:
            gc.enable()
        self._call_seconds = times[-1]
        now_waited = seconds_waited_for_cores()
        busy = None if waited is None or now_waited is None else (now_waited - waited) / passed
        return {"seconds": times, "machine_busy": busy}

    def finish(self) -> dict[str, Any]:
        """Save the outputs of one more call: state that went wrong meanwhile would show."""
        return {
            "outputs": self._save("last", _leaves(self._ready()(self._inputs))),
            "rss_bytes": {"end": peak_rss(), "held_end": current_rss()},
        }

    def _wait(self) -> None:
        """Until the GPU has done what it was given: calls return before."""
        if self._device == "cuda":
            torch.cuda.synchronize()

    def _ready(self) -> Run:
        if self._run is None:
            raise RuntimeError("build comes first")
        return self._run

    def _save(self, name: str, leaves: list[torch.Tensor]) -> str:
        path = self._folder / f"{name}.pt"
        torch.save([leaf.cpu() for leaf in leaves], path)
        return str(path)


def _leaves(outputs: Any) -> list[torch.Tensor]:
    """The tensors among the outputs, in order; arrays become tensors."""
    leaves = pytree.tree_leaves(outputs)
    return [torch.as_tensor(leaf) for leaf in leaves if isinstance(leaf, torch.Tensor | np.ndarray)]


def _serve(commands: TextIO, answers: TextIO, start: Callable[[], Service]) -> None:
    """Answer until the other end closes; an exception is an answer, its traceback goes to the log."""
    service: Service | None = None
    for line in commands:
        command = json.loads(line)
        try:
            if service is None:
                service = start()
            answer = getattr(service, command.pop("do"))(**command)
        except Exception as error:  # whatever a competitor raises is its result
            traceback.print_exc()
            first_line = (str(error).strip().splitlines() or [""])[0]
            answer = {"failed": f"{type(error).__name__}: {first_line}"}
        print(json.dumps(answer), file=answers, flush=True)


def _take_pipes() -> tuple[TextIO, TextIO]:
    """Keep the two pipes for the protocol: what libraries and compilers print goes to the log."""
    commands, answers = os.fdopen(os.dup(0), "r"), os.fdopen(os.dup(1), "w")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    return commands, answers


def main(arguments: list[str]) -> None:
    row, competitor, threads, folder = arguments
    commands, answers = _take_pipes()
    torch.set_num_threads(int(threads))
    torch.set_grad_enabled(False)

    def start() -> Service:
        try:
            chosen = look_up(competitor, COMPETITORS)()
        except ModuleNotFoundError as error:
            raise PackageMissing(f"{error.name} is not installed: {INSTALL}") from error
        return Service(look_up(row, ROWS), chosen, Path(folder))

    _serve(commands, answers, start)


if __name__ == "__main__":
    main(sys.argv[1:])
