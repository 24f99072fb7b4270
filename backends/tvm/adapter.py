"""What of TVM's inside the backend uses: its compiler, and the threads that generated code runs on."""

from __future__ import annotations

import ctypes
import functools
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import tvm
import tvm_ffi
from tvm import tirx

from txgraph.backends.kernels.build import load
from txgraph.errors import BackendFailed

Function = Callable[..., None]


def compile_functions(functions: Mapping[str, tirx.PrimFunc]) -> tuple[bytes, str]:
    """A shared library of these functions, and its LLVM code.

    Raises:
        BackendFailed: TVM fails, or the linker.
    """
    target = tvm.target.Target.from_device("cpu")
    try:
        executable = tvm.compile(tvm.IRModule(dict(functions)), target=target)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "kernels.so")
            executable.export_library(str(path))
            return path.read_bytes(), executable.mod.inspect_source("ll")
    except Exception as error:  # TVM raises whatever its passes raise
        raise BackendFailed(f"TVM failed on this graph: {type(error).__name__}: {error}") from error


def load_functions(library: bytes, names: list[str]) -> dict[str, Function]:
    """The functions of a library that :func:`compile_functions` made, perhaps in another process.

    Raises:
        BackendFailed: it cannot be loaded.
    """
    _share_threads()
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "kernels.so")
            path.write_bytes(library)
            module = tvm.runtime.load_module(str(path))
    except Exception as error:  # as above
        raise BackendFailed(f"TVM cannot load a kept graph: {type(error).__name__}: {error}") from error
    return {name: module[name] for name in names}


@functools.cache
def _share_threads() -> None:
    """Let generated code run on torch's threads: TVM's own would wait in loops, on the cores that torch's run on."""
    launch = ctypes.cast(load("parallel").parallel_launch, ctypes.c_void_p)
    library = ctypes.CDLL(tvm_ffi.libinfo.find_libtvm_ffi())
    register: Any = library.TVMFFIEnvModRegisterContextSymbol
    register.argtypes, register.restype = [ctypes.c_char_p, ctypes.c_void_p], ctypes.c_int
    if register(b"__TVMBackendParallelLaunch", launch):
        raise BackendFailed("TVM does not take the function that runs its loops on torch's threads")
