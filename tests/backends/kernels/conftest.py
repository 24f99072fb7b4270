"""Every test of a kernel runs on it as it is compiled for each kind of processor that this one can stand in for."""

from __future__ import annotations

import ctypes
import fcntl
import functools
import os
import platform
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from torch.backends import cpu

from txgraph.backends import kernels
from txgraph.backends.kernels import calls

AVX2 = "-mavx2 -mfma"
KNOWN = {"DEFAULT": ("",), "AVX2": ("", AVX2), "AVX512": ("", AVX2, f"{AVX2} -mavx512f")}
FLAGS = KNOWN.get(cpu.get_cpu_capability(), ("",)) if platform.machine() == "x86_64" else ("",)
INTEGERS = {  # further instructions for products of integers, by Linux's names
    "avx512_vnni": f"{AVX2} -mavx512f -mavx512bw -mavx512vnni",
    "avx512bw": f"{AVX2} -mavx512f -mavx512bw",
    "avx_vnni": f"{AVX2} -mavxvnni",
}
_INFO = Path("/proc/cpuinfo")
_HAS = set(_INFO.read_text().split()) if _INFO.exists() else set[str]()
INTEGER_FLAGS = (*FLAGS, *(flags for name, flags in INTEGERS.items() if name in _HAS))

Library = Callable[[str, str], ctypes.CDLL]


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Library:
    """A kernel's library by its name and flags; each is compiled once for all processes that share these tests."""
    own, shares = tmp_path_factory.getbasetemp(), "PYTEST_XDIST_WORKER" in os.environ
    sources, folder = Path(kernels.__file__).parent, (own.parent if shares else own) / "kernels"
    folder.mkdir(exist_ok=True)

    @functools.cache
    def compile_with(name: str, flags: str) -> ctypes.CDLL:
        path = folder / f"{name}{flags.replace(' ', '')}.so"
        # As Inductor has it, products and sums stay apart. GCC 12 warns of its own headers for AVX-512.
        how = ("-std=c++20", "-O2", "-ffp-contract=off", "-shared", "-fPIC", "-fopenmp", "-Wall", "-Werror")
        how += ("-Wno-psabi", "-Wno-uninitialized", "-Wno-maybe-uninitialized")
        with path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists():
                made = path.with_suffix(".made")
                subprocess.run(["g++", *how, *flags.split(), "-o", made, sources / f"{name}.cpp"], check=True)
                made.rename(path)
        return ctypes.CDLL(str(path))

    return compile_with


def use(flags: str, monkeypatch: pytest.MonkeyPatch, compiled: Library) -> None:
    monkeypatch.setattr(calls, "function_of", lambda library, name: getattr(compiled(library, flags), name))


@pytest.fixture(params=FLAGS, ids=lambda flags: flags or "baseline")
def every_processor(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, compiled: Library) -> None:
    use(request.param, monkeypatch, compiled)


@pytest.fixture(params=INTEGER_FLAGS, ids=lambda flags: flags or "baseline")
def every_integer_product(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, compiled: Library) -> None:
    use(request.param, monkeypatch, compiled)
