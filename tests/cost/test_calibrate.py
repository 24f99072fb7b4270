"""Measuring this machine; no times are asserted."""

from __future__ import annotations

import pytest
import torch

from txgraph.cost import Hardware, calibrate


def test_it_measures_plausible_numbers_and_says_how() -> None:
    threads = torch.get_num_threads()
    measured = calibrate(threads=1)
    assert torch.get_num_threads() == threads
    assert isinstance(measured, Hardware)
    assert set(measured.flops) == {torch.float32, torch.bfloat16}
    assert all(1e8 < peak < 1e15 for peak in measured.flops.values())
    assert 1e8 < measured.bandwidth < 1e13
    assert 1e-8 < measured.launch_seconds < 1e-2
    assert measured.cores == 1
    assert "threads: 1," in measured.source
    assert torch.__version__ in measured.source


def test_the_number_of_threads_is_restored_after_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = torch.get_num_threads()
    seen = []

    def fail(*args: object) -> None:
        seen.append(torch.get_num_threads())
        raise RuntimeError("no memory")

    monkeypatch.setattr(torch, "mm", fail)
    with pytest.raises(RuntimeError, match="no memory"):
        calibrate(threads=threads + 1)
    assert seen == [threads + 1]
    assert torch.get_num_threads() == threads
