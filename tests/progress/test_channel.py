"""Steps: which are said, in which order, and to whom."""

from __future__ import annotations

import io
import logging
import threading

import pytest
import torch
from torch import nn

import txgraph
from tests.small import MLP
from txgraph.progress import Step, listen, say, track


def steps_of(model: nn.Module, *args: torch.Tensor, backend: str) -> list[Step]:
    steps: list[Step] = []
    with listen(steps.append):
        txgraph.optimize(model.eval(), args=args, backend=backend)
    return steps


def test_stages_come_in_order() -> None:
    """Each pass is counted, and a check inside of the pipeline leads back into it."""
    steps = steps_of(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), torch.ones(2, 3, 16), backend="reference")
    passes = txgraph.default_pipeline().names
    counted = [(step.number, step.total, step.what) for step in steps if step.total]
    assert counted == [(number, len(passes), name) for number, name in enumerate(passes, 1)]
    stages = [step.stage for step in steps if step.stage]
    assert list(dict.fromkeys(stages)) == ["load", "capture", "verify", "passes", "lower"]
    assert stages[-1] == "verify"
    assert steps[-1] == Step("")  # nothing goes on any more
    checked = [step.what for step in steps if step.stage == "verify"]
    assert (checked[0], checked[-1]) == ("capture", "backend reference")
    assert checked[1:-1]
    for at, step in enumerate(steps):
        if step.stage == "verify" and step.what in passes:
            assert (steps[at - 1].stage, steps[at - 1].what) == ("passes", step.what)
            assert steps[at + 1] == Step("passes")


def test_measurements_and_pieces_are_counted() -> None:
    """One that is timed by stopwatch says so: nothing may disturb it."""
    steps = steps_of(MLP(), torch.ones(3, 4), backend="inductor")
    linears = [step for step in steps if step.stage == "measure linears"]
    assert linears
    assert [(step.number, step.total) for step in linears] == [(n + 1, len(linears)) for n in range(len(linears))]
    assert all(step.timed and step.what.startswith("linear 3x") for step in linears)
    (piece,) = [step for step in steps if step.stage == "compile"]
    assert (piece.number, piece.total, piece.timed) == (1, 1, False)
    order = [step.stage for step in steps]
    assert order.index("lower") < order.index("measure linears") < order.index("compile")


def test_logs_do_not_have_steps() -> None:
    """Also of those who log everything, and while somebody listens."""
    log, root = io.StringIO(), logging.getLogger()
    handler, level = logging.StreamHandler(log), root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        logging.getLogger("txgraph").info("as usual")
        with listen(lambda step: None):
            say("capture")
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
    assert log.getvalue() == "as usual\n"


def test_other_threads_are_not_heard() -> None:
    heard: list[str] = []
    with listen(lambda step: heard.append(str(step))):
        thread = threading.Thread(target=say, args=("capture", "of another thread"))
        thread.start()
        thread.join()
        say("capture", "mine")
    say("capture", "too late")
    assert heard == ["capture: mine"]


def test_handlers_of_logging_hear_text(capfd: pytest.CaptureFixture[str]) -> None:
    channel, handler = logging.getLogger("txgraph.progress"), logging.StreamHandler()
    channel.addHandler(handler)
    try:
        assert list(track("ab", "letters", str.upper)) == ["a", "b"]
    finally:
        channel.removeHandler(handler)
    assert capfd.readouterr().err == "letters 1 of 2: A\nletters 2 of 2: B\n"


def test_all_listeners_hear_until_their_block_ends() -> None:
    outer: list[Step] = []
    inner: list[Step] = []

    def fail() -> None:
        with listen(inner.append):
            say("capture")
            raise ValueError("inside")

    with listen(outer.append):
        with pytest.raises(ValueError, match="inside"):
            fail()
        say("passes")
    assert (outer, inner) == ([Step("capture"), Step("passes")], [Step("capture")])
