"""Bars: what is on the terminal, and that nothing is anywhere else."""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
import time

import pytest
from rich.console import Console

from txgraph.progress import Step, say, show_progress, track
from txgraph.progress.bars import Bars

EXPLAIN = (sys.executable, "-m", "txgraph", "explain", "tests.cli.factories:two_attentions")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", clock)
    return clock


def terminal() -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=100, _environ={"TERM": "xterm"})


def written(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def lines(bars: Bars) -> list[list[str]]:
    """The words of each line, without spinner and bar."""
    console = Console(file=io.StringIO(), width=100)
    console.print(bars)
    return [line.split() for line in re.sub(r"[^\x00-\x7f]", "", written(console)).splitlines()]


def test_each_stage_has_its_own_seconds(clock: Clock) -> None:
    bars = Bars()
    for seconds, step in (
        (1.0, Step("capture")),
        (0.5, Step("passes", "fuse-gelu", 1, 2)),
        (2.0, Step("verify", "fuse-gelu")),
        (0.25, Step("passes")),
        (0.25, Step("passes", "fuse-silu", 2, 2)),
    ):
        bars.hear(step)
        clock.now += seconds
    assert lines(bars) == [
        ["capture", "1.0", "s"],
        ["passes", "2/2", "1.0", "s", "fuse-silu"],
        ["verify", "2.0", "s"],
    ]
    bars.hear(Step(""))
    clock.now += 60
    assert lines(bars) == [["capture", "1.0", "s"], ["passes", "2/2", "1.0", "s"], ["verify", "2.0", "s"]]


@pytest.mark.parametrize(("timed", "left"), [(True, ["12", "s", "left"]), (False, [])])
def test_time_left_where_steps_are_alike(timed: bool, left: list[str], clock: Clock) -> None:
    """Two of five took 4 s each."""
    bars = Bars()
    for number in (1, 2, 3):
        clock.now = 4.0 * number
        bars.hear(Step("rounds", "", number, 5, timed))
    assert bars.still is timed
    assert lines(bars) == [["rounds", "3/5", "8.0", "s", *left]]


def test_terminals_have_bars_for_the_time_being() -> None:
    console = terminal()
    with show_progress(console):
        for _ in track(range(3), "passes"):
            pass
    assert "3/3" in written(console)
    assert written(console).endswith("\x1b[2K")  # the last line is wiped out again


def test_elsewhere_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    piped, off = Console(file=io.StringIO(), force_terminal=False), terminal()
    with show_progress(), show_progress(piped), show_progress(off, disable=True):
        say("capture")
        time.sleep(0.3)
    assert capfd.readouterr() == ("", "")
    assert (written(piped), written(off)) == ("", "")


def on_a_terminal(*options: str) -> tuple[str, str]:
    """Standard output, piped, and what the terminal got as standard error."""
    parent, child = pty.openpty()
    process = subprocess.Popen(
        [*EXPLAIN, *options], stdout=subprocess.PIPE, stderr=child, env={**os.environ, "TERM": "xterm"}, text=True
    )
    os.close(child)
    chunks = []
    while True:
        try:
            chunks.append(os.read(parent, 4096))
        except OSError:  # Linux: nobody holds the other end any more
            break
        if not chunks[-1]:
            break
    os.close(parent)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    return output, b"".join(chunks).decode()


def test_commands_on_a_terminal() -> None:
    output, errors = on_a_terminal()
    assert output.startswith("normalize-views: 2 rewrites")
    assert all(stage in errors for stage in ("model", "capture", "passes"))
    output, errors = on_a_terminal("--json")
    assert output.startswith("{")
    assert errors == ""


def test_commands_that_are_piped() -> None:
    result = subprocess.run(EXPLAIN, capture_output=True, text=True, check=True)
    assert result.stdout.startswith("normalize-views: 2 rewrites")
    assert result.stderr == ""
