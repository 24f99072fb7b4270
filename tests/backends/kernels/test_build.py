"""Compiled once, in another thread; and tells when the private torch names that do it move."""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
import sys
import threading
from typing import Any

import pytest
import torch

from txgraph.backends.inductor import InductorBackend, lower
from txgraph.backends.kernels import build
from txgraph.options import Target


def test_a_library_is_loaded_once() -> None:
    library = build.load("kernels")
    assert isinstance(library.attention, ctypes._CFuncPtr)
    assert build.load("kernels") is library


@pytest.fixture
def nothing_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "_started", {})


@pytest.mark.usefixtures("nothing_started")
def test_what_is_started_is_done_after_a_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """One at a time, each once."""
    begin, running, done = threading.Event(), [], []

    def loaded(name: str) -> str:
        running.append(name)
        begin.wait()
        assert len(running) == 1
        done.append(running.pop())
        return name

    monkeypatch.setattr(build, "_load", loaded)
    futures = [build.start(name) for name in ("one", "two", "one")]
    assert not done
    begin.set()
    build.wait()
    assert sorted(done) == ["one", "two"]
    assert [future.result() for future in futures] == ["one", "two", "one"]


@pytest.mark.usefixtures("nothing_started")
def test_a_compiler_that_fails_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("C++ compile error")

    monkeypatch.setattr(build.CppCodeCache, "load", fails)
    build.start("parallel")
    build.wait()  # whoever does not need it goes on
    with pytest.raises(RuntimeError, match=r"C\+\+ compile error"):
        build.load("parallel")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.usefixtures("nothing_started")
def test_a_fork_while_a_kernel_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """The child has no thread that would finish it: it starts again, and waits for nothing else."""
    begin = threading.Event()
    monkeypatch.setattr(build, "_load", lambda name: begin.wait() and name)
    done = build.start("done")
    begin.set()
    assert done.result() == "done"
    begin.clear()
    build.start("pending")
    child = os.fork()
    if child == 0:
        right = False
        try:
            begin.set()
            build.wait()
            right = [build.load("done"), build.load("pending")] == ["done", "pending"]
        finally:
            os._exit(not right)
    begin.set()
    assert os.waitpid(child, 0)[1] == 0
    build.wait()


def test_it_is_compiled_for_the_vectors_of_this_machine() -> None:
    """Else the kernel would be right, and slow."""
    from torch._inductor.codecache import _resolve_needs_vec_isa

    assert _resolve_needs_vec_isa("cpu", "int x;", None)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="other processors are found out as Inductor does")
def test_what_torch_knows_of_the_processor_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor import config
    from torch._inductor.cpu_vec_isa import VecAVX2

    def tried(*_: Any) -> bool:
        raise AssertionError("compiles a program to find out")

    monkeypatch.setattr(VecAVX2, "check_build", tried)
    monkeypatch.setattr(build.cpu, "get_cpu_capability", lambda: "AVX2")
    with config.patch(build.known_vectors()):
        assert VecAVX2()
    monkeypatch.setattr(build.cpu, "get_cpu_capability", lambda: "DEFAULT")
    assert build.known_vectors() == {}


TRIED = """
from torch._inductor.cpu_vec_isa import VecISA, pick_vec_isa
from txgraph.backends.kernels import build

tried = []
VecISA.check_build = lambda isa, code: tried.append(str(isa)) or True
known = build.known_vectors()
with build.config.patch(known):
    pick_vec_isa()
print(*(each for each in tried if known and "amx" not in each), sep=", ")
"""


def test_nor_are_its_further_instructions() -> None:
    """In a process of its own: torch remembers what it found out."""
    run = subprocess.run([sys.executable, "-c", TRIED], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == ""


@pytest.mark.parametrize(
    ("weights", "target", "started"),
    [
        ([torch.ones(1, dtype=torch.bfloat16), torch.ones(1)], "cpu", ["kernels"]),
        ([torch.ones(1, dtype=torch.bfloat16)], "cpu", []),
        ([torch.ones(1)], "cuda", []),
        ([], "cpu", []),
    ],
    ids=["some float32", "bfloat16", "a GPU", "no weights"],
)
def test_which_kernels_a_model_may_need(
    weights: list[torch.Tensor], target: str, started: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    names: list[str] = []
    monkeypatch.setattr(lower, "start", names.append)
    InductorBackend().prepare(weights, Target(target))
    assert names == started
