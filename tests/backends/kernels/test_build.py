"""Compiled once, in another thread; and tells when the private torch names that do it move."""

from __future__ import annotations

import ctypes
import platform
import threading
from typing import Any

import pytest
import torch

from txgraph.backends.inductor import InductorBackend, lower
from txgraph.backends.kernels import build
from txgraph.options import Target


def test_a_library_is_loaded_once() -> None:
    library = build.load("attention")
    assert isinstance(library.attention, ctypes._CFuncPtr)
    assert build.load("attention") is library


def test_what_is_started_is_done_after_a_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    begin, done = threading.Event(), []

    def compiled(name: str) -> str:
        begin.wait()
        done.append(name)
        return name

    monkeypatch.setattr(build, "_compile", compiled)
    futures = [build.start.__wrapped__(name) for name in ("one", "two")]
    assert not done
    begin.set()
    build.wait()
    assert done == ["one", "two"]
    assert [future.result() for future in futures] == done


def test_a_compiler_that_fails_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("C++ compile error")

    monkeypatch.setattr(build.CppCodeCache, "load", fails)
    with pytest.raises(RuntimeError, match="C\\+\\+ compile error"):
        build.start.__wrapped__("linear").result()


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


@pytest.mark.parametrize(
    ("weights", "target", "started"),
    [
        ([torch.ones(1, dtype=torch.bfloat16), torch.ones(1)], "cpu", ["linear", "attention"]),
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
