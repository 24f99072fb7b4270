"""``make gpu``: what it says where it cannot run, and that it needs few packages."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "scripts" / "gpu.py"
# Of those that other tests import, and their plugins of pytest.
HIDDEN = ["hypothesis", "typer", "psutil", "matplotlib", "scipy", "tensorboard", "peft", "pytest_timeout", "xdist"]
HIDES = f"""
import sys
from importlib.machinery import PathFinder


class Finder:
    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in {HIDDEN} else PathFinder.find_spec(name, path, target)

    def find_distributions(self, context):
        return PathFinder.find_distributions(context)


installed = [f for f in sys.meta_path if "editable" not in str(f)]  # this project is not, either
sys.meta_path[:] = [Finder() if f is PathFinder else f for f in installed]
"""


def run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": "", **environment}
    return subprocess.run([sys.executable, *command], env=env, capture_output=True, text=True, check=False)


def test_without_a_gpu_it_says_so_and_fails() -> None:
    done = run(str(SCRIPT))
    assert done.returncode == 1
    assert "an NVIDIA GPU that torch can use: torch.cuda.is_available() is false" in done.stderr


def test_its_tests_need_few_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_file_location("gpu", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    gpu = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(gpu)
    gpu.TREE = tmp_path / "tree"
    gpu.link_tree()
    (tmp_path / "sitecustomize.py").write_text(HIDES)
    monkeypatch.chdir(gpu.TREE)
    path = os.pathsep.join((str(gpu.TREE), str(tmp_path)))
    done = run(
        *("-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "cuda", "tests/cuda"),
        PYTHONPATH=path,
        PYTEST_ADDOPTS="",
        PYTEST_DISABLE_PLUGIN_AUTOLOAD="1",
    )
    assert done.returncode == 0, done.stdout
    assert " skipped in " in done.stdout, done.stdout
