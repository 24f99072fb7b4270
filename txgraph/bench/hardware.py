"""What a result was measured on, in words that name no one's machine."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path

_PACKAGES = (
    "txgraph",
    "torch",
    "transformers",
    "numpy",
    "onnxruntime",
    "openvino",
    "triton",
    "apache-tvm",
)
# The widest of each family that the processor has: (flag of /proc/cpuinfo, its usual name)
_VECTORS = (("avx512f", "AVX-512"), ("avx2", "AVX2"), ("avx", "AVX"), ("sve", "SVE"), ("asimd", "NEON"))
_MATRICES = (("amx_tile", "AMX"), ("i8mm", "I8MM"))


def describe_hardware(flags: frozenset[str] | None = None, cores: int | None = None) -> str:
    """Such as ``2-core x86-64 AVX-512``.

    >>> describe_hardware(frozenset({"avx", "avx2"}), cores=8).split()[0::2]
    ['8-core', 'AVX2']
    """
    found = _cpu_flags() if flags is None else flags
    count = _usable_cores() if cores is None else cores
    names = [next((name for flag, name in family if flag in found), "") for family in (_VECTORS, _MATRICES)]
    machine = {"x86_64": "x86-64", "AMD64": "x86-64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    return " ".join([f"{count}-core", machine, *filter(None, names)])


def versions() -> dict[str, str]:
    """Of Python, and of each package concerned that is installed."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpu_flags() -> frozenset[str]:
    """Instruction set flags; empty where the system does not tell."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return frozenset()
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()
