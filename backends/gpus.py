"""The GPUs that code can be compiled for on a machine without one: what a compiler asks of them.

source:  NVIDIA, CUDA C++ programming guide, "compute capabilities"; the datasheets for the numbers of multiprocessors.
         Inductor picks sizes of blocks by these; any GPU of the architecture runs the code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from txgraph.errors import BackendFailed
from txgraph.options import Target

KIB = 1024


@dataclass(frozen=True)
class Gpu:
    """One GPU of an architecture.

    Attributes:
        capability: compute capability, major and minor. multiprocessors: how many. threads: of a multiprocessor.
        shared_memory: bytes that one block may have, and bytes of a multiprocessor. cache: bytes of the second level.
        memory: bytes.
    """

    name: str
    capability: tuple[int, int]
    multiprocessors: int
    threads: int
    shared_memory: tuple[int, int]
    cache: int
    memory: int

    @property
    def number(self) -> int:
        """The compute capability as compilers write it: 90."""
        return 10 * self.capability[0] + self.capability[1]

    def lacks(self, dtype: torch.dtype) -> bool:
        """Whether Triton and torch have no arithmetic in that dtype there."""
        if dtype is torch.bfloat16:
            return self.number < 80
        return dtype.itemsize == 1 and dtype.is_floating_point and self.number < 89


def _gpu(name: str, number: int, multiprocessors: int, threads: int, shared: int, cache: int, memory: int) -> Gpu:
    """Shared memory in KiB of a multiprocessor, of which the system keeps one for each block; cache in MiB; in GiB."""
    whole = shared * KIB
    block = 64 * KIB if number == 75 else whole - KIB
    return Gpu(name, divmod(number, 10), multiprocessors, threads, (block, whole), cache << 20, memory << 30)


GPUS: Mapping[str, Gpu] = {
    f"sm_{gpu.number}": gpu
    for gpu in (
        _gpu("T4", 75, 40, 1024, 64, 4, 16),
        _gpu("A100", 80, 108, 2048, 164, 40, 80),
        _gpu("A10", 86, 72, 1536, 100, 6, 24),
        _gpu("L40S", 89, 142, 1536, 100, 96, 48),
        _gpu("H100", 90, 132, 2048, 228, 50, 80),
        _gpu("B200", 100, 148, 2048, 228, 126, 180),
    )
}


def absent_gpu(target: Target) -> Gpu | None:
    """The GPU that code for an absent target is made for; ``None`` for other targets, and for unknown architectures."""
    return GPUS.get((target.arch or "").rstrip("a")) if target.is_absent else None


def unknown(target: Target) -> str:
    """Why no code can be made for a GPU that this machine has not, if nothing is known of it; else empty."""
    if absent_gpu(target) is not None:
        return ""
    what = "without a GPU the target must name its architecture" if target.arch is None else "it is not known"
    return f"{what}: one of {', '.join(f'cuda:{arch}' for arch in GPUS)}"


def refuse(target: Target) -> Callable[..., Sequence[Any]]:
    """What is run in place of code for a GPU that this machine has not."""

    def refused(*_: object) -> Sequence[Any]:
        raise BackendFailed(
            f"compiled for {target}, and this machine has no such device: the code can be read (code(), kernels()), "
            f"but not run here"
        )

    return refused
