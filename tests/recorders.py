"""What stands in for a GPU's recorder on a CPU, a backend that writes in place, and a model that writes."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from txgraph.backends import Compiled
from txgraph.backends.cuda_graphs import CannotRecord
from txgraph.backends.reference import ReferenceBackend
from txgraph.ir import Graph
from txgraph.options import BackendOptions, Target


class StandIn:
    """Replays by running the function again, on the very tensors that it was recorded with, into the same outputs.

    As on a GPU recording fills no output, and a replay overwrites what the one before it gave.

    Attributes:
        recorded, replayed, waited: how often.
    """

    def __init__(self) -> None:
        self.recorded = self.replayed = self.waited = 0
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        with self._lock:
            yield

    def wait(self) -> None:
        assert self._lock.locked(), "another thread may be replaying"
        self.waited += 1

    def record(
        self, function: Callable[[], Sequence[Any]], warm_up: Callable[[], Sequence[Any]]
    ) -> tuple[Sequence[Any], Callable[[], object]]:
        assert self._lock.locked()
        self.recorded += 1
        outputs = [_garbage(value) if isinstance(value, torch.Tensor) else value for value in warm_up()]

        def replay() -> None:
            assert self._lock.locked()
            self.replayed += 1
            self.fill(outputs, function)

        return outputs, replay

    def fill(self, outputs: Sequence[Any], function: Callable[[], Sequence[Any]]) -> None:
        """What a replay does."""
        for output, value in zip(outputs, function(), strict=True):
            if isinstance(value, torch.Tensor):
                output.copy_(value)
            time.sleep(0)  # another thread's turn, if it could take one


class Forgetful(StandIn):
    """Holds nothing of what it was to record: its replays do nothing."""

    def fill(self, outputs: Sequence[Any], function: Callable[[], Sequence[Any]]) -> None:
        """Leave them as they are."""

    def record(
        self, function: Callable[[], Sequence[Any]], warm_up: Callable[[], Sequence[Any]]
    ) -> tuple[Sequence[Any], Callable[[], object]]:
        outputs, _ = super().record(function, warm_up)
        return outputs, lambda: None


class Strict(StandIn):
    """Refuses what asks for a number, as a device does; for functions that write to nothing: it runs them."""

    def record(
        self, function: Callable[[], Sequence[Any]], warm_up: Callable[[], Sequence[Any]]
    ) -> tuple[Sequence[Any], Callable[[], object]]:
        try:
            with _NoNumbers():
                function()
        except RuntimeError as error:
            self.recorded += 1
            raise CannotRecord.of(error) from error
        return super().record(function, warm_up)


class _NoNumbers(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.name() in ("aten::_local_scalar_dense", "cuda_graph_test::asks"):
            raise RuntimeError("operation not permitted when stream is capturing")
        return func(*args, **(kwargs or {}))


def _garbage(value: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode(False):  # a device writes to it in any mode
        return torch.empty_like(value).fill_(torch.nan if value.dtype.is_floating_point else 77)


class WritesInPlace(ReferenceBackend):
    """Interprets, and writes what it can where it belongs."""

    def lower(self, graph: Graph, target: Target, options: BackendOptions) -> Compiled:
        plain = super().lower(graph, target, options)
        own, names = graph.copy(), [node.name for node in graph.inputs]

        def update(tensors: Sequence[torch.Tensor]) -> Sequence[Any]:
            outputs = [*plain.run(tensors)]
            for at, mutation in enumerate(own.mutations):
                to = (
                    own.constants[mutation.target]
                    if mutation.kind == "buffer"
                    else tensors[names.index(mutation.target)]
                )
                outputs[at] = to.copy_(outputs[at])
            return outputs

        return replace(plain, update=update, in_place=frozenset(range(len(graph.mutations))))


class Running(nn.Module):
    """Counts calls in a buffer, and adds its input to a cache."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x: torch.Tensor, cache: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        cache += x
        return torch.sin(cache) * self.calls
