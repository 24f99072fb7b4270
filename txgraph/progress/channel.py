"""Steps, and who hears of them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")

channel = logging.getLogger("txgraph.progress")
channel.setLevel(logging.INFO)
channel.propagate = False  # what is worth a line of a log is said there; steps are for those who ask for them


@dataclass(frozen=True)
class Step:
    """What begins now.

    Attributes:
        stage: such as ``"capture"`` or ``"passes"``; empty: none goes on.
        what: that is worked on, such as the name of a pass.
        number, total: this is step ``number`` of ``total``; 0 where nobody counts.
        timed: it is measured by stopwatch. Whoever listens keeps still until the next step; and as such steps take
            about equally long, the mean of those done says how much time is left.
    """

    stage: str
    what: str = ""
    number: int = 0
    total: int = 0
    timed: bool = False

    def __str__(self) -> str:
        count = f" {self.number} of {self.total}" if self.total else ""
        return f"{self.stage or 'idle'}{count}{f': {self.what}' if self.what else ''}"


def say(stage: str, what: str = "", number: int = 0, total: int = 0, timed: bool = False) -> None:
    """Say that a step begins; see :class:`Step`."""
    if channel.handlers:
        channel.info("%s", Step(stage, what, number, total, timed))


def track(
    items: Collection[T], stage: str, what: Callable[[T], str] = lambda item: "", timed: bool = False
) -> Iterator[T]:
    """The items, each said as a step before it comes.

    >>> with listen(print):
    ...     names = [name.upper() for name in track(["query", "key"], "linears", str)]
    linears 1 of 2: query
    linears 2 of 2: key
    """
    for number, item in enumerate(items, 1):
        say(stage, what(item), number, len(items), timed)
        yield item


@contextmanager
def listen(hear: Callable[[Step], object]) -> Iterator[None]:
    """Have ``hear`` called with each step that this thread takes inside of the ``with``."""
    handler = _Handler(hear)
    channel.addHandler(handler)
    try:
        yield
    finally:
        channel.removeHandler(handler)


class _Handler(logging.Handler):
    def __init__(self, hear: Callable[[Step], object]) -> None:
        super().__init__()
        self._hear = hear
        self._thread = threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        if record.thread == self._thread and isinstance(record.args, tuple):
            step = record.args[0]
            assert isinstance(step, Step), "say: the one argument"
            self._hear(step)
