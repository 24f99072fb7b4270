"""Run what TVM generated for a GPU on a CPU: its own code that launches, and the CUDA source, compiled for the CPU.

The library is the one that a GPU would be given. What it launches is its CUDA source behind ``emulated_cuda.h``: the
threads of a block take turns, meet at barriers, and shuffle. Tensors say that they are on a GPU, and lie in the CPU's
memory.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import tvm_ffi

from txgraph.backends.tvm import library
from txgraph.backends.tvm.code import Code

_HERE = Path(__file__).parent
_SIGNATURE = re.compile(
    r'^extern "C" __global__ void (?:__launch_bounds__\(\d+\) )?(\w+)\(([^;{]*)\) \{$', re.MULTILINE
)
_LOADS, _SETS_DEVICE = "ffi.Module.load_from_bytes.cuda", "__tvm_set_device"
_CUDA, _CPU = 2, 1  # DLPack's numbers of devices


def load(code: Code, folder: Path) -> dict[str, Callable[..., None]]:
    """The functions of generated code for a GPU, which take and fill tensors on the CPU."""
    library._start_runtime()
    emulated = _compiled(code.source, folder)
    path = folder / "kernels.so"
    path.write_bytes(code.library)
    _give_memory(emulated)
    tvm_ffi.register_global_func(_LOADS, lambda _: tvm_ffi.load_module(str(emulated)), override=True)
    tvm_ffi.register_global_func(_SETS_DEVICE, lambda *_: None, override=True)
    module = tvm_ffi.load_module(str(path))

    def function(name: str) -> Callable[..., None]:
        called = module[name]
        return lambda *given: called(*(_on_gpu(each) if isinstance(each, torch.Tensor) else each for each in given))

    return {name: function(name) for name in code.functions}


def _give_memory(emulated: Path) -> None:
    """Kernels that hand values on are given memory of the CPU."""
    functions = ctypes.CDLL(str(emulated))
    register: Any = ctypes.CDLL(tvm_ffi.libinfo.find_libtvm_ffi()).TVMFFIEnvModRegisterContextSymbol
    register.argtypes, register.restype = [ctypes.c_char_p, ctypes.c_void_p], ctypes.c_int
    for name, function in (("Alloc", functions.emulated_alloc), ("Free", functions.emulated_free)):
        assert not register(f"__TVMBackend{name}Workspace".encode(), ctypes.cast(function, ctypes.c_void_p))


@contextlib.contextmanager
def descending() -> Iterator[None]:
    """Threads that can run do so in descending order, meanwhile."""
    os.environ["EMULATED_DESCENDING"] = "1"
    try:
        yield
    finally:
        del os.environ["EMULATED_DESCENDING"]


def _compiled(source: str, folder: Path) -> Path:
    """A library of the kernels, each under the name and with the arguments by which TVM's runtime would launch it."""
    text = ['#include "emulated_cuda.h"', source.replace("alignas(64)", "__align__(64)")]
    text.append("struct Any { int32_t type, padding; union { int64_t integer; double real; void* pointer; }; };")
    for name, parameters in _SIGNATURE.findall(source):
        taken = []
        for at, parameter in enumerate(parameters.split(", ")):
            kind = parameter.rpartition(" ")[0].replace("__restrict__", "")
            taken.append(f"({kind})args[{at}].{'pointer' if '*' in kind else 'integer'}")
        n = len(taken)
        text.append(
            f'extern "C" int __tvm_ffi_{name}(void*, const Any* args, int32_t count, Any*) {{\n'
            f"  if (count != {n + 2}) abort();\n"
            f"  emulated::launch(args[{n}].integer, args[{n + 1}].integer, [&] {{ {name}({', '.join(taken)}); }});\n"
            f"  return 0;\n}}"
        )
    for header in ("cuda.h", "cuda_fp16.h", "cuda_bf16.h", "math_constants.h"):
        (folder / header).write_text("")
    (folder / "kernels.cpp").write_text("\n".join(text))
    path = folder / "emulated.so"
    options = ["-std=c++17", "-O1", "-w", "-fpermissive", "-shared", "-fPIC", f"-I{folder}", f"-I{_HERE}"]
    done = subprocess.run(
        [os.environ.get("CXX", "g++"), *options, str(folder / "kernels.cpp"), "-o", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert not done.returncode, done.stderr[:4000]
    return path


class _Device(ctypes.Structure):
    _fields_ = (("type", ctypes.c_int32), ("index", ctypes.c_int32))


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device", _Device),
        ("axes", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("offset", ctypes.c_uint64),
    )


def _on_gpu(tensor: torch.Tensor) -> Any:
    """The same memory, said to be a GPU's: the first field of a DLPack capsule is the tensor."""
    capsule = torch.utils.dlpack.to_dlpack(tensor)
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    described = _Tensor.from_address(pointer(capsule, b"dltensor"))
    assert described.device.type == _CPU
    described.device.type = _CUDA
    return tvm_ffi.from_dlpack(_Capsule(capsule))


class _Capsule:
    def __init__(self, capsule: Any) -> None:
        self._capsule = capsule

    def __dlpack__(self, **_: Any) -> Any:
        return self._capsule

    def __dlpack_device__(self) -> tuple[int, int]:
        return _CUDA, 0
