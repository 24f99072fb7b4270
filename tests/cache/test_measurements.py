"""Measurements are found again by what was measured; damage and folders that cannot be written are no errors."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from txgraph.cache import Measurements
from txgraph.cache.fingerprint import machine


def test_found_again(tmp_path: Path) -> None:
    Measurements(tmp_path / "new").keep("one", {"a": 1e-3, "b": 2e-3})
    Measurements(tmp_path / "new").keep("two", {"a": 3e-3})
    kept = Measurements(tmp_path / "new")
    assert kept.find("one") == {"a": 1e-3, "b": 2e-3}
    assert kept.find("two") == {"a": 3e-3}
    assert kept.find("three") == {}
    kept.keep("one", {"a": 5e-3})
    assert kept.find("one") == {"a": 5e-3}
    assert [path.name for path in (tmp_path / "new").iterdir()] == [kept.path.name]


def test_another_number_of_threads_is_another_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Measurements(tmp_path).keep("one", {"a": 1e-3})
    before = machine()
    monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    assert machine() != before
    assert Measurements(tmp_path).find("one") == {}


@pytest.mark.parametrize("content", ["", "{", "\x00", "[1]"])
def test_damaged(content: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    kept = Measurements(tmp_path)
    kept.path.write_text(content)
    with caplog.at_level(logging.WARNING, "txgraph"):
        assert kept.find("one") == {}
    assert f"measurements cannot be read from {kept.path}" in caplog.text
    kept.keep("one", {"a": 1.0})
    assert kept.find("one") == {"a": 1.0}


def test_a_folder_that_cannot_be_written_to(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    with caplog.at_level(logging.WARNING, "txgraph"):
        Measurements(tmp_path / "file").keep("one", {"a": 1.0})
    assert "measurements cannot be kept in" in caplog.text
