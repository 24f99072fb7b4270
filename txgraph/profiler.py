"""Measure where the time of a call goes, with torch.profiler, on the very code that answers calls."""

from __future__ import annotations

import contextlib
import gzip
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, record_function

from txgraph.compiled_call import CompiledCall
from txgraph.errors import TxgraphError
from txgraph.ir import Kernel
from txgraph.profile import Profile

WARM_CALLS = 3
_CALL = "txgraph call"
_LOCK = threading.Lock()  # torch has one profiler for all


def profile_call(compiled: CompiledCall, tensors: Sequence[torch.Tensor], calls: int, model: str) -> Profile:
    """Run a compiled graph ``calls`` times and measure each launch. What the model writes to is left as it was.

    Args:
        tensors: of the call. model: its name.

    Raises:
        ValueError: fewer than one call.
        TxgraphError: the backend does not tell of its launches.
    """
    if type(calls) is not int or calls < 1:
        raise ValueError(f"calls must be a number of calls, one or more, got {calls!r}")
    run, kernels = compiled.compiled.watched, compiled.compiled.kernels
    if run is None:
        raise TxgraphError(f"backend {compiled.report.backend} does not tell which kernels it launches")
    device = next((t.device.type for t in (*tensors, *compiled.after.constants.values())), "cpu")
    watch = _Recorded(kernels, device)
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device == "cuda" else [])]
    with _LOCK, torch.no_grad():
        taken = [t.detach().contiguous() for t in tensors]
        for _ in range(WARM_CALLS):
            run(taken, watch)
        with torch.profiler.profile(activities=activities) as profiler:
            for _ in range(calls):
                run(taken, watch)
    return Profile.of(model, device, compiled.after, kernels, watch.seconds(profiler), _trace(profiler))


class _Recorded:
    """A range of torch.profiler for each call, and in it for each launch."""

    def __init__(self, kernels: Sequence[Kernel], device: str) -> None:
        self._names = [f"{kernel.name} #{number}" for number, kernel in enumerate(kernels)]
        self._on_gpu = device == "cuda"

    @contextlib.contextmanager
    def call(self) -> Iterator[None]:
        """Until the device is done."""
        with record_function(_CALL):
            yield
            if self._on_gpu:
                torch.cuda.synchronize()

    def launch(self, number: int) -> AbstractContextManager[object]:
        """The launch alone; what a GPU does for it is counted by torch.profiler, whenever it runs."""
        return record_function(self._names[number])

    def seconds(self, profiler: torch.profiler.profile) -> list[tuple[float, list[float]]]:
        """Of each call, and in it of each launch; 0 for what was not launched."""
        numbers = {name: number for number, name in enumerate(self._names)}
        calls: list[tuple[float, list[float]]] = []
        for event in sorted(profiler.events(), key=lambda event: event.time_range.start):
            if event.device_type.name != "CPU":
                continue
            if event.name == _CALL:
                calls.append((1e-6 * event.cpu_time_total, [0.0] * len(numbers)))
            elif event.name in numbers:
                microseconds = event.device_time_total if self._on_gpu else event.cpu_time_total
                calls[-1][1][numbers[event.name]] = 1e-6 * microseconds
        return calls


def _trace(profiler: torch.profiler.profile) -> bytes:
    """What torch exports only once."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "trace.json")
        profiler.export_chrome_trace(str(file))
        return gzip.compress(file.read_bytes())
