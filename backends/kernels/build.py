"""Compile C++ for this machine. The private torch name that does it is in this file alone.

``tests/backends/kernels/test_build.py`` tells when it moves.
"""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path

import torch
from torch._inductor.codecache import CppCodeCache

_FOLDER = Path(__file__).parent
_SHARED = "vectors.h"


@functools.cache
def load(name: str) -> ctypes.CDLL:
    """The library of ``name.cpp`` beside this file, with this machine's vector instructions and torch's OpenMP.

    It is compiled once a machine, by the compiler that Inductor uses, and kept in Inductor's cache.

    Raises:
        RuntimeError: there is no C++ compiler, or it fails.
    """
    library: ctypes.CDLL = CppCodeCache.load(source(name), device_type="cpu")
    return library


def source(name: str) -> str:
    """The text of ``name.cpp`` with what it includes from this folder: the compiler sees one file."""
    text = (_FOLDER / f"{name}.cpp").read_text(encoding="utf-8")
    return text.replace(f'#include "{_SHARED}"', (_FOLDER / _SHARED).read_text(encoding="utf-8"))


def pointer(tensor: torch.Tensor | None) -> ctypes.c_void_p:
    """Where a tensor's first element is, for a call into a library; null for ``None``."""
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())
