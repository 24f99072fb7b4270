"""Every test of a kernel runs on it as it is compiled for each kind of processor that this one can stand in for."""

from __future__ import annotations

import ctypes
import functools
import platform
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from torch.backends import cpu

from txgraph.backends import kernels
from txgraph.backends.kernels import attention, linear

AVX2 = "-mavx2 -mfma"
KNOWN = {"DEFAULT": ("",), "AVX2": ("", AVX2), "AVX512": ("", AVX2, f"{AVX2} -mavx512f")}
FLAGS = KNOWN.get(cpu.get_cpu_capability(), ("",)) if platform.machine() == "x86_64" else ("",)

Library = Callable[[str, str], ctypes.CDLL]


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Library:
    sources, folder = Path(kernels.__file__).parent, tmp_path_factory.mktemp("kernels")

    @functools.cache
    def compile_with(name: str, flags: str) -> ctypes.CDLL:
        path = folder / f"{name}{flags.replace(' ', '')}.so"
        how = ("-O2", "-Wall", "-Werror", "-Wno-psabi", "-shared", "-fPIC", "-fopenmp")
        subprocess.run(["g++", *how, *flags.split(), "-o", path, sources / f"{name}.cpp"], check=True)
        return ctypes.CDLL(str(path))

    return compile_with


@pytest.fixture(params=FLAGS, ids=lambda flags: flags or "baseline")
def every_processor(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, compiled: Library) -> None:
    for module in (attention, linear):
        monkeypatch.setattr(module, "load", lambda name: compiled(name, request.param))
