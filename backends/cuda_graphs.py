"""Compiled programs as CUDA graphs: recorded once, and then replayed by one launch in each call.

before:  each call launches every kernel from the host
after:   a call copies its inputs into static ones, replays, and clones the outputs
why:     a kernel of a small batch takes less time than its launch: then a call takes as long as the host does
legal:   static sizes, one device, nothing that asks it for a number. Weights and buffers are where they were recorded:
         a model whose tensors got new storage compiles anew. Inputs that are written in place are recorded by address,
         which each call compares

source:  NVIDIA, CUDA C++ programming guide, "CUDA graphs"; torch, "CUDA semantics", "CUDA graphs".
"""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import torch
from torch.utils import _pytree as pytree

from txgraph.backends.base import Compiled
from txgraph.errors import BackendFailed
from txgraph.ir import Graph, describe, type_of
from txgraph.options import Target

log = logging.getLogger(__name__)

_Function = Callable[[], Sequence[Any]]
_Replay = Callable[[], object]


class CannotRecord(BackendFailed):
    """A program does something that a CUDA graph cannot hold."""

    @classmethod
    def of(cls, error: BaseException) -> CannotRecord:
        """In the words of what was raised first: to end a broken recording raises, too."""
        while error.__context__ is not None:
            error = error.__context__
        return cls(f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}")


class Recorder(Protocol):
    """Records what a function has a device do."""

    def turn(self) -> AbstractContextManager[object]:
        """Entered for each call, by one thread at a time: what it queues begins after what the turn before queued."""

    def wait(self) -> None:
        """Until the device has done all that was queued."""

    def record(self, function: _Function, warm_up: _Function) -> tuple[Sequence[Any], _Replay]:
        """Run ``warm_up``, then record ``function`` without running it.

        Returns:
            What it gave, in memory that nothing else uses, without values; and what fills it with them.

        Raises:
            CannotRecord: the message says what was raised.
        """


class CudaRecorder:
    """Records on a CUDA device; one for all programs there, so that no two of them run at the same time.

    They share the stream on which they are recorded, and with it the workspace of cuBLAS.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._lock = threading.Lock()
        self._stream = torch.cuda.Stream(device)
        self._done = torch.cuda.Event()

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        with self._lock, torch.cuda.device(self._device):
            stream = torch.cuda.current_stream()
            stream.wait_event(self._done)
            try:
                yield
            finally:
                self._done.record(stream)

    def wait(self) -> None:
        torch.cuda.synchronize(self._device)

    def record(self, function: _Function, warm_up: _Function) -> tuple[Sequence[Any], _Replay]:
        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            warm_up()  # once: it loads all kernels, and has libraries allocate their workspaces
        current.wait_stream(self._stream)
        graph = torch.cuda.CUDAGraph()
        try:
            # The outer context: where ending a broken recording raises, torch leaves its stream the current one.
            # Other threads may allocate meanwhile: what they do is theirs.
            with (
                torch.cuda.stream(current),
                torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"),
            ):
                outputs = function()
        except Exception as error:  # whatever a kernel, a library or torch raises within a recording
            raise CannotRecord.of(error) from error
        return outputs, graph.replay


_recorder_on = functools.cache(CudaRecorder)


def recorder_for(target: Target) -> Recorder | None:
    """What records on the target; ``None``: this machine has no such device, so that nothing will run.

    Raises:
        ValueError: it is no CUDA device.
    """
    if target.kind != "cuda":
        raise ValueError(
            f"options={{'cuda_graphs': ...}} is for CUDA devices, and the target is {target}: leave the option out, "
            f'or move the model first: model.to("cuda")'
        )
    if target.is_absent:
        return None
    index = torch.cuda.current_device() if target.index is None else target.index
    return _recorder_on(torch.device("cuda", index))


def obstacle(graph: Graph) -> str:
    """Why a graph cannot be recorded, as far as that can be told without trying; empty: nothing is known."""
    devices: dict[torch.device, str] = {}
    for node in graph.nodes:
        what = f"input {node.target}" if node.op == "placeholder" else describe(node)
        tensor_type = type_of(node)
        if any(map(_varies, pytree.tree_leaves(node.meta.get("val")))):
            reason = "sizes are dynamic" if node.op == "placeholder" else "the device is asked for a number"
            return f"{reason}: {what}"
        if tensor_type is not None:
            devices.setdefault(tensor_type.device, what)
    if len(devices) > 1:
        return "it is on several devices: " + ", ".join(f"{what} on {device}" for device, what in devices.items())
    return ""


def with_cuda_graphs(
    compiled: Compiled, graph: Graph, recorder: Recorder | None, clones: bool, tell: Callable[[str], None]
) -> Compiled:
    """A compiled graph whose calls replay what was recorded of the first; the plain one, where that cannot be.

    Args:
        graph: what was compiled. recorder: ``None`` for a device that is not here.
        clones: outputs are given as clones; else in memory that the next call overwrites.
        tell: is told, once, why calls run slower than asked.
    """
    if recorder is None:
        return replace(compiled, choices={**compiled.choices, "CUDA graphs": "the device is not here: none recorded"})
    reason = obstacle(graph)
    if reason:
        return replace(compiled, fallbacks=(*compiled.fallbacks, f"runs without a CUDA graph: {reason}"))
    places = {node.name: at for at, node in enumerate(graph.inputs)}
    targets = {
        at: places[mutation.target] if mutation.kind == "input" else graph.constants[mutation.target]
        for at, mutation in enumerate(graph.mutations)
        if at in compiled.in_place
    }
    program = Replayed(compiled, targets, recorder, clones, tell)
    copied, placed = len(places) - len(program.placed), len(program.placed)
    given = "cloned" if clones else "overwritten by the next call"
    text = f"recorded; inputs copied: {copied}, written where they are: {placed}; outputs {given}"
    choices = {**compiled.choices, "CUDA graphs": text}
    return replace(compiled, run=program.run, update=program.update if targets else compiled.update, choices=choices)


@dataclass(frozen=True)
class _Recording:
    """What was recorded.

    Attributes:
        inputs: the static input for each of a call; ``None`` where that of the call is used.
        addresses: of these. outputs: those that a replay fills.
    """

    inputs: tuple[torch.Tensor | None, ...]
    addresses: tuple[int, ...]
    outputs: Sequence[Any]
    replay: _Replay


class Replayed:
    """A program that is recorded at its first call; safe to be called by several threads, on any stream.

    Where inputs are written in place, the recording holds their addresses. A call that brings other memory runs the
    program as it is; the next one with that memory records anew. So a cache that lives for some calls is recorded,
    and one that is new in each call costs no recordings.

    Args:
        targets: for each output that is written in place, the place of the input that it is written to, or the buffer.
        clones, tell: see :func:`with_cuda_graphs`.

    Attributes:
        placed: the places of the inputs that are written to.
    """

    def __init__(
        self,
        program: Compiled,
        targets: Mapping[int, int | torch.Tensor],
        recorder: Recorder,
        clones: bool,
        tell: Callable[[str], None],
    ) -> None:
        self._program, self._targets, self._recorder, self._clones = program, targets, recorder, clones
        self.placed = tuple(sorted(place for place in targets.values() if isinstance(place, int)))
        self._plain = program.update if targets and program.update is not None else program.run
        self._tell, self._told = tell, set[str]()
        self._recording: _Recording | None = None
        self._failed = False
        self._latest: tuple[int, ...] = ()  # addresses of the call before
        self._recorded, self._moved = 0, 0  # how often, and calls that brought other memory and ran as they are

    def run(self, tensors: Sequence[torch.Tensor]) -> Sequence[Any]:
        """As that of the program: writes to nothing. What writes in place is recorded on copies, the first time."""
        if not self._targets:
            return self._call(tensors)
        if self._recorded or self._failed:
            self._tell_once("a call that could not write in place ran without a CUDA graph")
            return self._program.run(tensors)
        buffers = [target for target in self._targets.values() if isinstance(target, torch.Tensor)]
        held = [buffer.clone() for buffer in buffers]
        given = [t.clone() if at in self.placed else t for at, t in enumerate(tensors)]
        try:
            outputs = self._call(given, at_once=True)
            written = [
                t.clone() if isinstance(self._targets.get(at), torch.Tensor) else t for at, t in enumerate(outputs)
            ]
        finally:
            with torch.no_grad():
                for buffer, value in zip(buffers, held, strict=True):
                    buffer.copy_(value)
        return written

    def update(self, tensors: Sequence[torch.Tensor]) -> Sequence[Any]:
        """As that of the program: writes in place."""
        return self._call(tensors)

    def _call(self, tensors: Sequence[torch.Tensor], at_once: bool = False) -> Sequence[Any]:
        with self._recorder.turn(), torch.no_grad():
            recording = self._fitting(tensors, at_once)
            if recording is not None:
                return self._replay(recording, tensors)
        return self._plain(tensors)

    def _fitting(self, tensors: Sequence[torch.Tensor], at_once: bool) -> _Recording | None:
        """The recording for such a call, made now if need be; ``None``: it runs as it is."""
        if self._failed:
            return None
        addresses = tuple(tensors[at].data_ptr() for at in self.placed)
        latest, self._latest = self._latest, addresses
        if self._recording is not None and self._recording.addresses == addresses:
            return self._recording
        if addresses == latest or at_once:
            return self._record(tensors, addresses)
        self._moved += 1
        if self._moved > self._recorded + 1:
            self._tell_once(
                "calls that bring other memory to be written to than the call before run without a CUDA graph"
            )
        return None

    def _record(self, tensors: Sequence[torch.Tensor], addresses: tuple[int, ...]) -> _Recording | None:
        if self._recording is not None:
            self._recorder.wait()
            self._recording = None  # gives its memory back
        with torch.inference_mode(False):  # such tensors can be written to in any mode
            inputs = tuple(None if at in self.placed else torch.empty_like(t) for at, t in enumerate(tensors))
        _copy(inputs, tensors)
        taken = [given if static is None else static for static, given in zip(inputs, tensors, strict=True)]
        warm_up = partial(self._program.run, taken)
        try:
            outputs, replay = self._recorder.record(partial(self._plain, taken), warm_up)
        except CannotRecord as error:
            self._failed = True
            self._tell_once(f"runs without a CUDA graph: recording failed{self._where(taken, warm_up)}: {error}")
            return None
        self._recorded += 1
        # What is written in place is the caller's: it is not held here.
        outputs = [None if at in self._targets else value for at, value in enumerate(outputs)]
        self._recording = _Recording(inputs, addresses, outputs, replay)
        return self._recording

    def _replay(self, recording: _Recording, tensors: Sequence[torch.Tensor]) -> Sequence[Any]:
        _copy(recording.inputs, tensors)
        recording.replay()
        return [self._given(at, value, tensors) for at, value in enumerate(recording.outputs)]

    def _given(self, at: int, value: Any, tensors: Sequence[torch.Tensor]) -> Any:
        target = self._targets.get(at)
        if target is not None:
            return tensors[target] if isinstance(target, int) else target
        return value.clone() if self._clones and isinstance(value, torch.Tensor) else value

    def _where(self, taken: Sequence[torch.Tensor], warm_up: _Function) -> str:
        """The kernel that cannot be recorded, in words, where the program tells of its launches."""
        watched, latest = self._program.watched, _Latest()
        if watched is not None:
            try:
                self._recorder.record(partial(watched, taken, latest), warm_up)
            except CannotRecord:
                if latest.number is not None:
                    return f" at {self._program.kernels[latest.number].name}"
        return ""

    def _tell_once(self, reason: str) -> None:
        if reason not in self._told:
            self._told.add(reason)
            self._tell(reason)
            log.warning("%s", reason)


class _Latest:
    """Knows the number of the launch that was entered, and not left but by an exception."""

    def __init__(self) -> None:
        self.number: int | None = None

    def call(self) -> AbstractContextManager[object]:
        return contextlib.nullcontext()

    @contextlib.contextmanager
    def launch(self, number: int) -> Iterator[None]:
        self.number = number
        yield
        self.number = None


def _copy(inputs: Sequence[torch.Tensor | None], tensors: Sequence[torch.Tensor]) -> None:
    for static, given in zip(inputs, tensors, strict=True):
        if static is not None:
            static.copy_(given)


def _varies(value: Any) -> bool:
    strided = isinstance(value, torch.Tensor) and value.layout is torch.strided
    numbers = (*value.shape, *value.stride()) if strided else (value,)
    return any(isinstance(number, torch.SymInt | torch.SymFloat | torch.SymBool) for number in numbers)
