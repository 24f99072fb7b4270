"""Tells when the private torch name that compiles C++ moves."""

from __future__ import annotations

import ctypes

from txgraph.backends.kernels import build


def test_a_library_is_loaded_once() -> None:
    library = build.load("attention")
    assert isinstance(library.attention, ctypes._CFuncPtr)
    assert build.load("attention") is library


def test_it_is_compiled_for_the_vectors_of_this_machine() -> None:
    """Else the kernel would be right, and slow."""
    from torch._inductor.codecache import _resolve_needs_vec_isa

    assert _resolve_needs_vec_isa("cpu", "int x;", None)
