"""Steps as bars on a terminal: a line for each stage, with its seconds, its count, and the time left."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from txgraph.progress.channel import Step, listen

_TICK = 0.2  # seconds between two drawings


@contextmanager
def show_progress(console: Console | None = None, *, disable: bool = False) -> Iterator[None]:
    """Show what txgraph is doing inside of the ``with``: each stage with its seconds, its count and the time left.

    The bars are drawn on the standard error of a terminal, or in a notebook, and vanish at the end. Elsewhere (pipes,
    files, dumb terminals) nothing is printed. Time left is shown only where steps are alike, as measurements and the
    rounds of a benchmark are: the mean of those done, times those to come. Passes and compilations take very
    different times and are only counted. Nothing is drawn while something is measured by stopwatch.

    >>> import torch, txgraph
    >>> with txgraph.show_progress():
    ...     fast = txgraph.optimize(torch.nn.Linear(4, 4), args=(torch.ones(2, 4),), backend="reference")

    Args:
        console: where to draw instead. disable: show nothing.
    """
    console = console or Console(stderr=True)
    if disable or not (console.is_interactive or console.is_jupyter):
        yield
        return
    bars = Bars()
    done = threading.Event()
    with Live(bars, console=console, transient=True, auto_refresh=False) as live:

        def hear(step: Step) -> None:
            bars.hear(step)
            if bars.still:  # then this is the only moment
                live.refresh()

        def tick() -> None:
            while not done.wait(_TICK):
                if not bars.still:
                    live.refresh()

        ticks = threading.Thread(target=tick, name="txgraph-progress", daemon=True)
        ticks.start()
        try:
            with listen(hear):
                yield
        finally:
            done.set()
            ticks.join()


@dataclass
class _Stage:
    """A line: its latest step, and the seconds of all of them."""

    step: Step
    seconds: float = 0.0

    def left(self) -> str:
        """How long the steps to come take, if they take as long as those before."""
        done = self.step.number - 1
        if not self.step.timed or done < 1:
            return ""
        return f"{self.seconds / done * (self.step.total - done):.0f} s left"


class Bars:
    """The stages so far, as rich draws them. All time passes for the stage of the latest step."""

    def __init__(self) -> None:
        self._stages: dict[str, _Stage] = {}
        self._now: _Stage | None = None
        self._since = 0.0

    @property
    def still(self) -> bool:
        """Whether a step is under way that must not be disturbed."""
        return self._now is not None and self._now.step.timed

    def hear(self, step: Step) -> None:
        """A step begins. One without a count says that its stage goes on, after another inside of it."""
        now = time.perf_counter()
        if self._now is not None:
            self._now.seconds += now - self._since
        self._since = now
        if not step.stage:
            self._now = None
            return
        self._now = stage = self._stages.setdefault(step.stage, _Stage(step))
        if step.total or not stage.step.total:
            stage.step = step

    def __rich__(self) -> Table:
        """A line for each stage."""
        table = Table.grid(padding=(0, 1))
        table.add_column(width=1)
        table.add_column(no_wrap=True)
        table.add_column(width=20)
        for _ in range(3):
            table.add_column(justify="right", no_wrap=True)
        table.add_column(no_wrap=True, overflow="ellipsis")
        now, since = self._now, time.perf_counter() - self._since
        for stage in list(self._stages.values()):
            step, active = stage.step, stage is now
            completed = step.number - (active and step.number > 0)
            table.add_row(
                Spinner("dots") if active else "",
                step.stage,
                ProgressBar(total=step.total, completed=completed, width=20) if step.total else "",
                f"{step.number}/{step.total}" if step.total else "",
                f"{stage.seconds + (since if active else 0.0):.1f} s",
                stage.left() if active else "",
                Text(step.what if active else "", style="dim"),
            )
        return table
