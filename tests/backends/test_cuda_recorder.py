"""The recorder of a GPU, but for the GPU: what torch.cuda is told, in which order, on which stream."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from txgraph.backends.cuda_graphs import CannotRecord, CudaRecorder


class FakeCuda:
    """Notes what torch.cuda is told, with the stream that is current then."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fails: bool = False) -> None:
        self.done: list[str] = []
        self.stream_now = FakeStream(self, "caller's")
        cuda, fake = torch.cuda, self

        class Graph:
            def __init__(self, graph: Any, stream: FakeStream, capture_error_mode: str) -> None:
                self.stream = stream
                assert capture_error_mode == "thread_local"

            def __enter__(self) -> None:
                self.before, fake.stream_now = fake.stream_now, self.stream
                fake.note("begin")

            def __exit__(self, *args: object) -> None:
                fake.note("end")
                if fails:
                    raise RuntimeError("the recording was broken")
                fake.stream_now = self.before

        class Current:
            def __init__(self, stream: FakeStream) -> None:
                self.stream = stream

            def __enter__(self) -> None:
                self.before, fake.stream_now = fake.stream_now, self.stream

            def __exit__(self, *args: object) -> None:
                fake.stream_now = self.before

        class FakeGraph:
            def replay(self) -> None:
                fake.note("replay")

        for name, value in {
            "Stream": lambda device: FakeStream(fake, "side"),
            "Event": lambda: FakeEvent(fake),
            "CUDAGraph": FakeGraph,
            "graph": Graph,
            "stream": Current,
            "device": lambda device: contextlib.nullcontext(),
            "current_stream": lambda: fake.stream_now,
            "synchronize": lambda device: fake.note("synchronize"),
        }.items():
            monkeypatch.setattr(cuda, name, value)

    def note(self, what: str) -> None:
        self.done.append(f"{what} on {self.stream_now.name}")


class FakeStream:
    def __init__(self, cuda: FakeCuda, name: str) -> None:
        self.cuda, self.name = cuda, name

    def wait_stream(self, other: FakeStream) -> None:
        self.cuda.done.append(f"{self.name} waits for {other.name}")

    def wait_event(self, event: FakeEvent) -> None:
        self.cuda.done.append(f"{self.name} waits for the turn before")


class FakeEvent:
    def __init__(self, cuda: FakeCuda) -> None:
        self.cuda = cuda

    def record(self, stream: FakeStream) -> None:
        self.cuda.done.append(f"the turn ends on {stream.name}")


def test_order_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = FakeCuda(monkeypatch)
    recorder = CudaRecorder(torch.device("cuda", 0))

    def noted(what: str) -> Callable[[], Sequence[Any]]:
        return lambda: cuda.note(what) or []  # type: ignore[func-returns-value]

    with recorder.turn():
        _, replay = recorder.record(noted("function"), noted("warm up"))
        replay()
    assert cuda.done == [
        "caller's waits for the turn before",
        "side waits for caller's",
        "warm up on side",
        "caller's waits for side",
        "begin on side",
        "function on side",
        "end on side",
        "replay on caller's",
        "the turn ends on caller's",
    ]


def test_what_broke_a_recording_first_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = FakeCuda(monkeypatch, fails=True)
    recorder = CudaRecorder(torch.device("cuda", 0))

    def fails() -> Sequence[Any]:
        raise IndexError("no number while capturing\nand more lines")

    with recorder.turn(), pytest.raises(CannotRecord, match=r"^IndexError: no number while capturing$"):
        recorder.record(fails, list)
    assert cuda.stream_now.name == "caller's"
    assert cuda.done[-1] == "the turn ends on caller's"
    with recorder.turn():  # it can be taken again
        pass
