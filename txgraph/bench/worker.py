"""One competitor on one row, in a process of its own: ``python -m txgraph.bench.worker ROW COMPETITOR THREADS FOLDER``.

It reads one command per line on standard input and answers each by one line of JSON. Between commands it is
blocked on that pipe. :class:`txgraph.bench.Worker` is the other end.
"""

from __future__ import annotations

import gc
import importlib
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

from txgraph.bench.competitors import Competitor, Run, ZeroPadding
from txgraph.bench.memory_use import current_rss, peak_rss, weight_bytes
from txgraph.bench.references import look_up
from txgraph.bench.row import Row
from txgraph.cost import CoreClock

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
        tensors = [leaf for leaf in pytree.tree_leaves(self._inputs) if isinstance(leaf, torch.Tensor)]
        self._on_gpu = any(tensor.is_cuda for tensor in tensors)

    def hello(self) -> dict[str, Any]:
        """What is compared."""
        return {
            "row": self._row.name,
            "competitor": self._competitor.name,
            "promises_zeros": isinstance(self._competitor, ZeroPadding),
            "search_seconds": self._competitor.search_seconds,
            "tolerance": self._row.tolerance,
            "new_tokens": self._row.new_tokens,
            "dtype": ", ".join(sorted({str(p.dtype).removeprefix("torch.") for p in self._model.parameters()})),
            "weights_bytes": weight_bytes(self._model),
            "inputs": {name: _describe(value) for name, value in self._inputs.items()},
        }

    def reference(self) -> dict[str, Any]:
        """Save eager's outputs, those of eager in float64 on the same weights and inputs, and what of them is valid.

        Models that make tensors of their own dtype may not run in float64; ``not_in_float64`` says why.
        """
        eager = _leaves(self._model(**self._inputs))
        valid = [] if self._row.valid is None else [self._row.valid(self._inputs)]
        saved = {"eager": self._save("eager", eager), "valid": self._save("valid", valid)}
        try:
            exact = _leaves(self._model.double()(**pytree.tree_map(_widened, dict(self._inputs))))
        except Exception as error:  # whatever the model raises
            return {**saved, "float64": self._save("float64", []), "not_in_float64": _first_line(error)}
        return {**saved, "float64": self._save("float64", exact), "not_in_float64": ""}

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
            clock, stop = CoreClock(), time.perf_counter() + seconds
            while len(times) < calls or (len(times) < MAX_CALLS and time.perf_counter() < stop):
                started = time.perf_counter()
                run(inputs)
                self._wait()
                times.append(time.perf_counter() - started)
            busy = clock.share()
        finally:
            gc.enable()
        self._call_seconds = times[-1]
        return {"seconds": times, "machine_busy": busy}

    def finish(self) -> dict[str, Any]:
        """Save the outputs of one more call: state that went wrong meanwhile would show."""
        return {
            "outputs": self._save("last", _leaves(self._ready()(self._inputs))),
            "rss_bytes": {"end": peak_rss(), "held_end": current_rss()},
        }

    def _wait(self) -> None:
        """Until the GPU has done what it was given: calls return before."""
        if self._on_gpu:
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


def _describe(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
    return type(value).__name__


def _widened(value: Any) -> Any:
    return value.double() if isinstance(value, torch.Tensor) and value.is_floating_point() else value


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"


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
            answer = {"failed": _first_line(error)}
        print(json.dumps(answer), file=answers, flush=True)


def _take_pipes() -> tuple[TextIO, TextIO]:
    """Keep the two pipes for the protocol: what libraries and compilers print goes to the log."""
    commands, answers = os.fdopen(os.dup(0), "r"), os.fdopen(os.dup(1), "w")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    return commands, answers


def _competitor(reference: str) -> Competitor:
    try:
        competitor: Competitor = look_up(reference)()
        for module in competitor.packages:
            importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise PackageMissing(f"{error.name} is not installed: pip install {error.name}") from error
    return competitor


def _row(reference: str) -> Row:
    row = look_up(reference)
    made: Row = row if isinstance(row, Row) else row()
    return made


def main(arguments: list[str]) -> None:
    """The process: serves until its standard input ends."""
    row, competitor, threads, folder = arguments
    commands, answers = _take_pipes()
    torch.set_num_threads(int(threads))
    torch.set_grad_enabled(False)

    def start() -> Service:
        return Service(_row(row), _competitor(competitor), Path(folder))

    _serve(commands, answers, start)


if __name__ == "__main__":
    main(sys.argv[1:])
    sys.stderr.flush()
    os._exit(0)  # taking apart what was imported takes a second, and a competitor's threads may not end
