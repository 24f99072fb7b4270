"""What was generated for a graph. Nothing here imports tvm, which takes seconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Gpu:
    """What code for a GPU is made for, and by.

    Attributes:
        arch: such as ``sm_90``. nvcc: the path of CUDA's compiler; empty: source is all that is made.
    """

    arch: str
    nvcc: str


@dataclass(frozen=True)
class Code:
    """Generated functions; it can be pickled.

    Attributes:
        library: a shared library of them. source: all of them: TIR, printed as Python; for GPUs CUDA.
        functions: the part of the source that each function is, by name.
        fatbin, cubin: for GPUs, machine code of what the library launches: with PTX, and as an ELF file.
        ptx: of each function.
    """

    library: bytes = b""
    source: str = ""
    functions: Mapping[str, str] = field(default_factory=dict)
    fatbin: bytes = b""
    cubin: bytes = b""
    ptx: Mapping[str, str] = field(default_factory=dict)
