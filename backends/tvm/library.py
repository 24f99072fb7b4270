"""Libraries of generated functions, and the threads that they run on. Nothing here imports tvm, which takes seconds.

What is needed of TVM's inside stands in this file: where its runtimes are, and how they are given functions.
``tests/backends/test_tvm_cuda.py`` tells when the name by which it has CUDA compiled moves.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.util
import re
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from txgraph.backends.kernels.build import load
from txgraph.errors import BackendFailed

Function = Callable[..., None]
_COMPILES = "tvm_callback_cuda_compile"


def load_functions(library: bytes, names: list[str], kernels: Kernels | None = None) -> dict[str, Function]:
    """The functions of a library that was generated, perhaps in another process.

    Args:
        kernels: what the library launches on a GPU.

    Raises:
        BackendFailed: it cannot be loaded.
    """
    import tvm_ffi

    _start_runtime()
    if kernels is not None:
        _start_cuda_runtime()
    try:
        with tempfile.TemporaryDirectory() as folder, _assembled(kernels):
            path = Path(folder, "kernels.so")
            path.write_bytes(library)
            module = tvm_ffi.load_module(str(path))
            for imported in module.imports:
                imported.get_function(_names(kernels)[0])  # with one of its kernels it loads all of them
    except Exception as error:  # TVM raises whatever its loading raises
        raise BackendFailed(f"TVM cannot load a compiled graph: {type(error).__name__}: {error}") from error
    return {name: module[name] for name in names}


@dataclass(frozen=True)
class Kernels:
    """CUDA source and its machine code, a fatbin."""

    source: str
    fatbin: bytes


def _names(kernels: Kernels | None) -> list[str]:
    return re.findall(r"__global__ .* (\w+)\([^;{]*\) \{$", kernels.source, re.MULTILINE) if kernels else []


@contextlib.contextmanager
def _assembled(kernels: Kernels | None) -> Iterator[None]:
    """Meanwhile TVM's runtime, which has a library's CUDA source compiled as it loads it, is given what was compiled.

    TVM's compiler, where it was imported, has registered a function of that name, which gets its place back.
    """
    import tvm_ffi

    if kernels is None:
        yield
        return

    def compiled(source: str) -> bytes:
        if source != kernels.source:
            raise ValueError("this is not the source that was compiled")
        return kernels.fatbin

    before = tvm_ffi.get_global_func(_COMPILES, allow_missing=True)
    tvm_ffi.register_global_func(_COMPILES, compiled, override=True)
    try:
        yield
    finally:
        if before is None:
            tvm_ffi.registry.remove_global_func(_COMPILES)
        else:
            tvm_ffi.register_global_func(_COMPILES, before, override=True)


@functools.cache
def _start_runtime() -> None:
    """Load TVM's runtime, and let generated code run on torch's threads.

    TVM's own threads would wait in loops, on the cores that torch's run on.
    """
    import tvm_ffi

    ctypes.CDLL(str(_libraries() / "libtvm_runtime.so"), ctypes.RTLD_GLOBAL)
    launch = ctypes.cast(load("parallel").parallel_launch, ctypes.c_void_p)
    register: Any = ctypes.CDLL(tvm_ffi.libinfo.find_libtvm_ffi()).TVMFFIEnvModRegisterContextSymbol
    register.argtypes, register.restype = [ctypes.c_char_p, ctypes.c_void_p], ctypes.c_int
    if register(b"__TVMBackendParallelLaunch", launch):
        raise BackendFailed("TVM does not take the function that runs its loops on torch's threads")


@functools.cache
def _start_cuda_runtime() -> None:
    """Load the part that launches on GPUs, on the stream that torch uses: tvm_ffi tells it of that with each tensor."""
    try:
        ctypes.CDLL(str(_libraries() / "libtvm_runtime_cuda.so"), ctypes.RTLD_GLOBAL)
    except OSError as error:
        raise BackendFailed(
            f"TVM's runtime for CUDA cannot be loaded: {error}. It needs the driver, and CUDA 13's runtime: "
            f"pip install nvidia-cuda-runtime"
        ) from error


def _libraries() -> Path:
    spec = importlib.util.find_spec("tvm")
    assert spec is not None, "it is installed"
    return Path(str(spec.origin)).parent / "lib"
