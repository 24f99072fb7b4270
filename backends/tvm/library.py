"""Libraries of generated functions, and the threads that they run on. Nothing here imports tvm, which takes seconds.

What is needed of TVM's inside stands in this file: where its runtime is, and how it is given a function.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from txgraph.backends.kernels.build import load
from txgraph.errors import BackendFailed

Function = Callable[..., None]


def load_functions(library: bytes, names: list[str]) -> dict[str, Function]:
    """The functions of a library that :func:`compile_functions` made, perhaps in another process.

    Raises:
        BackendFailed: it cannot be loaded.
    """
    import tvm_ffi

    _start_runtime()
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "kernels.so")
            path.write_bytes(library)
            module = tvm_ffi.load_module(str(path))
    except Exception as error:  # as above
        raise BackendFailed(f"TVM cannot load a kept graph: {type(error).__name__}: {error}") from error
    return {name: module[name] for name in names}


@functools.cache
def _start_runtime() -> None:
    """Load TVM's runtime, and let generated code run on torch's threads.

    TVM's own threads would wait in loops, on the cores that torch's run on.
    """
    import tvm_ffi

    spec = importlib.util.find_spec("tvm")
    assert spec is not None, "it is installed"
    ctypes.CDLL(str(Path(str(spec.origin)).parent / "lib" / "libtvm_runtime.so"), ctypes.RTLD_GLOBAL)
    launch = ctypes.cast(load("parallel").parallel_launch, ctypes.c_void_p)
    register: Any = ctypes.CDLL(tvm_ffi.libinfo.find_libtvm_ffi()).TVMFFIEnvModRegisterContextSymbol
    register.argtypes, register.restype = [ctypes.c_char_p, ctypes.c_void_p], ctypes.c_int
    if register(b"__TVMBackendParallelLaunch", launch):
        raise BackendFailed("TVM does not take the function that runs its loops on torch's threads")
