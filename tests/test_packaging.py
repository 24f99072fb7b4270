"""The explicit list of packages in pyproject.toml is the folder tree."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
FOLDERS = {name: ROOT / folder for name, folder in SETUPTOOLS["package-dir"].items()}


def packages_in(name: str, folder: Path) -> set[str]:
    """Dotted names of the packages at and under ``folder``, which is imported as ``name``."""
    inits = [path.parent.relative_to(folder) for path in folder.rglob("__init__.py")]
    return {".".join((name, *relative.parts)) for relative in inits}


def test_every_package_is_listed_once() -> None:
    expected = set().union(*(packages_in(name, folder) for name, folder in FOLDERS.items()))
    assert SETUPTOOLS["packages"] == sorted(expected)


@pytest.mark.parametrize("folder", FOLDERS.values(), ids=lambda folder: folder.name)
def test_every_folder_with_code_is_a_package(folder: Path) -> None:
    holds_code = {path.parent for path in folder.rglob("*.py")}
    assert holds_code, f"{folder} holds no code"
    assert [str(each) for each in sorted(holds_code) if not (each / "__init__.py").exists()] == []


def test_types_are_published() -> None:
    assert (FOLDERS["txgraph"] / "py.typed").exists()
    assert "py.typed" in SETUPTOOLS["package-data"]["txgraph"]


def test_sources_in_c_are_published() -> None:
    assert [path.name for path in (ROOT / "txgraph").rglob("*.c")] == ["unchanged.c"]
    assert SETUPTOOLS["package-data"]["txgraph.capture"] == ["*.c"]


def test_sources_of_kernels_are_published() -> None:
    kinds = {path.suffix for path in (FOLDERS["txgraph.backends"] / "kernels").iterdir() if path.is_file()} - {
        ".py",
        ".so",
    }
    assert SETUPTOOLS["package-data"]["txgraph.backends.kernels"] == sorted(f"*{kind}" for kind in kinds)


def test_importing_txgraph_does_not_import_compilers() -> None:
    """They take as long as torch itself, and what they are needed for may never come."""
    heavy = ["torch._dynamo", "torch._inductor", "tvm", "transformers"]
    code = f"import sys, txgraph, txgraph.cli.app; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
