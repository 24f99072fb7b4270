"""What a machine can do at best: described for common ones, measured by :mod:`txgraph.cost.calibrate`."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch

from txgraph.cost.adapter import has_amx
from txgraph.options import Target


@dataclass(frozen=True)
class Hardware:
    """A machine in the terms of the roofline model.

    Attributes:
        flops: peak FLOP/s of matrix products, for each dtype; float32 must be there.
        bandwidth: bytes/s of main memory.
        launch_seconds: fixed cost of one kernel or operator call.
        source: where the numbers come from.
        cores: how many cores the numbers hold for; 1 where that has no meaning.
        bandwidth_limit: bytes/s that all cores together cannot exceed.
    """

    name: str
    flops: Mapping[torch.dtype, float] = field(hash=False)
    bandwidth: float
    launch_seconds: float
    source: str
    cores: int = 1
    bandwidth_limit: float = math.inf

    def __post_init__(self) -> None:
        if torch.float32 not in self.flops:
            raise ValueError(f"{self.name} has no FLOP/s for float32: other dtypes fall back on it")
        if min(*self.flops.values(), self.bandwidth, self.launch_seconds, self.cores, self.bandwidth_limit) <= 0:
            raise ValueError(f"{self.name} has a number that is not positive")
        if not self.source:
            raise ValueError(f"{self.name} has no source: say where its numbers come from")

    def peak(self, dtype: torch.dtype) -> float:
        """FLOP/s of a dtype; of one that is not in the table, by its relation to float32.

        float64 is half of float32. complex64 is a quarter, because a complex multiplication and addition is 8
        real operations but counts as 2; complex128 is an eighth. All others, narrow floats among them, are
        computed as float32.
        """
        shares = {torch.float64: 1 / 2, torch.complex64: 1 / 4, torch.complex128: 1 / 8}
        return self.flops.get(dtype) or self.flops[torch.float32] * shares.get(dtype, 1)

    def on_cores(self, cores: int) -> Hardware:
        """The same machine with another number of cores; bandwidth grows up to its limit."""
        factor = cores / self.cores
        return replace(
            self,
            flops={dtype: peak * factor for dtype, peak in self.flops.items()},
            bandwidth=min(self.bandwidth * factor, self.bandwidth_limit),
            cores=cores,
        )


_CLOCK = 2.5e9  # Hz: a usual clock of server processors with all cores busy; an assumption
_CORE_BANDWIDTH = 32 * 64 / 80e-9  # bytes/s by Little's law; its numbers are assumptions, too
_PER_CORE = (
    "Bandwidth: Little's law for 32 cache lines of 64 bytes in flight (prefetched) at 80 ns, at most that of 8 "
    "channels of {memory}. Launch: the order of one eager operator call, 2 us."
)
_TILES = (
    "bfloat16: 1024, int8: 2048 operations a cycle (a tile product of 16 x 16 x 32 in 16 cycles; PyTorch's recipe on "
    "AMX) x 2.5 GHz. "
)
_LAUNCH = "Launch: the order of magnitude of a kernel launch, 5 us; not measured."


def _gpu(name: str, float32: float, float64: float, half: float, bandwidth: float, source: str) -> Hardware:
    dense = {torch.float32: float32, torch.float64: float64, torch.float16: half, torch.bfloat16: half}
    dense[torch.int8] = 2 * half
    if name != "a100":
        dense |= {torch.float8_e4m3fn: 2 * half, torch.float8_e5m2: 2 * half}
    return Hardware(name, dense, bandwidth, launch_seconds=5e-6, source=f"{source} {_LAUNCH}")


def _cpu(name: str, lanes: int, memory: str = "DDR4", megatransfers: int = 3200, amx: bool = False) -> Hardware:
    """One core with two units of so many float32 lanes; eight channels of memory, of 8 bytes each, for all cores."""
    peaks = {torch.float32: 2 * lanes * 2 * _CLOCK}
    if amx:
        peaks |= {torch.bfloat16: 1024 * _CLOCK, torch.int8: 2048 * _CLOCK}
    source = f"One core, {32 * lanes}-bit vectors. float32: 2 units x {lanes} lanes x 2 FLOPs (FMA) x 2.5 GHz. "
    return Hardware(
        name,
        peaks,
        bandwidth=_CORE_BANDWIDTH,
        launch_seconds=2e-6,
        source=source + (_TILES if amx else "") + _PER_CORE.format(memory=f"{memory}-{megatransfers}"),
        bandwidth_limit=8 * 8 * megatransfers * 1e6,
    )


_DESCRIBED = (
    _cpu("cpu-128-bit", 4),
    _cpu("cpu-avx2", 8),
    _cpu("cpu-avx512", 16),
    _cpu("cpu-amx", 16, "DDR5", 4800, amx=True),
    _gpu("a100", 19.5e12, 19.5e12, 312e12, 2.039e12, "NVIDIA A100 datasheet, 80 GB SXM, dense, float32 without TF32."),
    _gpu("h100", 67e12, 67e12, 989.5e12, 3.35e12, "NVIDIA H100 datasheet, 80 GB SXM, dense, float32 without TF32."),
    _gpu("h200", 67e12, 67e12, 989.5e12, 4.8e12, "NVIDIA H200 datasheet, 141 GB SXM, dense, float32 without TF32."),
)
HARDWARE: Mapping[str, Hardware] = {each.name: each for each in _DESCRIBED}
_ARCHITECTURES = {"sm_80": "a100", "sm_90": "h100", "sm_90a": "h100"}


def hardware_of(target: Target) -> Hardware:
    """The description that fits a target best.

    A CPU is described by its widest vector unit, for the threads that torch uses now. A CUDA target is the GPU of
    that name if there is one here, else what its architecture says; one without a description is taken for an A100.

    Raises:
        ValueError: the target is neither a CPU nor a CUDA device.
    """
    if target.kind == "cpu":
        return HARDWARE[_cpu_name()].on_cores(torch.get_num_threads())
    if target.kind == "cuda":
        return HARDWARE[_gpu_name(target)]
    raise ValueError(
        f"no description of {target}: known are {', '.join(HARDWARE)}. Describe it by txgraph.cost.Hardware, "
        f"or measure this machine with txgraph.cost.calibrate()"
    )


def _cpu_name() -> str:
    capability = torch.backends.cpu.get_cpu_capability()
    if capability == "AVX512" and has_amx():
        return "cpu-amx"
    return {"AVX2": "cpu-avx2", "AVX512": "cpu-avx512"}.get(capability, "cpu-128-bit")


def _gpu_name(target: Target) -> str:
    if torch.cuda.is_available():
        major, minor = torch.cuda.get_device_capability(target.index)
        if target.arch is None or target.arch == f"sm_{major}{minor}":
            found = torch.cuda.get_device_name(target.index)
            known = [name for name in HARDWARE if re.search(rf"\b{name}\b", found, re.IGNORECASE)]
            return known[0] if known else "a100"
    return _ARCHITECTURES.get(target.arch or "", "a100")
