"""Whether the machine had other work."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from txgraph.cost import BUSY, CoreClock

needs_pressure = pytest.mark.skipif(not Path("/proc/pressure/cpu").exists(), reason="the system does not tell")


@needs_pressure
def test_more_work_than_cores_is_seen() -> None:
    count = (os.cpu_count() or 1) * 2
    work = "while True: pass"
    started = [subprocess.Popen([sys.executable, "-S", "-c", work]) for _ in range(count)]
    try:
        time.sleep(0.5)
        clock = CoreClock()
        time.sleep(1.0)
        share = clock.share()
    finally:
        for process in started:
            process.kill()
            process.wait()
    assert share is not None
    assert BUSY < share <= 1.05


def test_a_system_that_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", missing)
    assert CoreClock().share() is None
