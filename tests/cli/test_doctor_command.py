"""``txgraph doctor``: what it finds, what it says of what is missing, and its exit codes."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

from txgraph.cli import doctor
from txgraph.cli.app import app


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["doctor", *arguments])


def findings() -> dict[str, dict[str, object]]:
    return {each["name"]: each for each in json.loads(run("--json").stdout)}


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TXGRAPH_CACHE", "1")
    monkeypatch.setenv("TXGRAPH_CACHE_DIR", str(tmp_path / "cache"))


def test_this_machine(tmp_path: Path) -> None:
    """That of the tests has all that is needed."""
    result = run()
    assert result.exit_code == 0, result.output
    assert torch.__version__ in result.stdout
    found = findings()
    assert found["C++ compiler"]["found"]
    assert found["torch"]["advice"] == ""
    assert found["cache"]["found"] == f"{tmp_path / 'cache'}: 0 graphs, 0 MB"
    assert all(each["found"] or each["advice"] for each in found.values())


def test_without_graphviz(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None if name == "dot" else f"/usr/bin/{name}")
    result = run()
    assert result.exit_code == 0, result.output
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("Graphviz")]
    assert "missing" in line
    assert "apt-get install graphviz" in line


def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    def compiled(name: str) -> None:
        raise RuntimeError("No working C++ compiler found\nin many places")

    monkeypatch.setattr("txgraph.backends.kernels.build.compiled", compiled)
    result = run()
    assert result.exit_code == 1
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("C++ compiler")]
    assert "missing" in line
    assert "apt-get install g++ python3-dev" in line
    assert "No working C++ compiler found)" in line


def test_kernels_that_are_compiled_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "installed", lambda library, folder: None if library == "sparse" else folder)
    found = findings()["kernels"]
    assert not found["found"]
    assert found["advice"].startswith("sparse: compiled when first needed")
    monkeypatch.setattr(doctor, "installed", lambda library, folder: folder)
    assert findings()["kernels"]["found"] == "compiled for this processor"


@pytest.mark.parametrize(("torch_version", "tested"), [("2.10.1", False), ("2.11.0+cu130", True), ("2.14.0", False)])
def test_versions_of_torch(torch_version: str, tested: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", torch_version)
    assert findings()["torch"]["advice"] == ("" if tested else "tested with 2.11 to 2.13")


def test_packages_that_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_version", lambda package: "")
    assert findings()["transformers"]["advice"] == "for Hugging Face models: pip install transformers"


def test_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "key" / "graph"
    folder.mkdir(parents=True)
    (folder / "call.pickle").write_bytes(b"x" * (3 << 20))
    assert str(findings()["cache"]["found"]).endswith(": 1 graphs, 3 MB")
    monkeypatch.setenv("TXGRAPH_CACHE", "0")
    assert findings()["cache"]["advice"] == "turned off by TXGRAPH_CACHE=0"
    monkeypatch.setenv("TXGRAPH_CACHE", "1")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TXGRAPH_CACHE_DIR", str(tmp_path / "file"))
    assert "set TXGRAPH_CACHE_DIR to a folder that can be written to" in str(findings()["cache"]["advice"])
    assert os.listdir(tmp_path / "cache") == ["key"]
