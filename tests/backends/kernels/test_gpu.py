"""Our Triton kernels without a GPU: their numbers in Triton's interpreter, and their machine code.

On a GPU: ``tests/cuda/test_kernels.py``.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from typing import Any

import pytest
import torch

from tests.backends.kernels.gpu_cases import (
    BF16,
    F16,
    F32,
    Attention,
    Int8,
    WeightOnly,
    operator_of,
)
from txgraph.backends.gpus import GPUS

needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
TYPES = {F32: "*fp32", F16: "*fp16", BF16: "*bf16", torch.int8: "*i8", torch.uint8: "*u8"}
TYPES |= {torch.int64: "*i64", torch.bool: "*i1"}


class Launched(Exception):
    """Stands for a launch: the kernel, and what it was given."""

    def __init__(self, kernel: Any, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        super().__init__()
        self.kernel, self.args_given, self.named = kernel, args, named


class Recorded:
    """A kernel that is not launched."""

    def __init__(self, kernel: Any) -> None:
        self.kernel = kernel

    def __getitem__(self, grid: object) -> Any:
        return self.launch

    def launch(self, *args: Any, **named: Any) -> None:
        raise Launched(self.kernel, args, named)


def assembled(case: Any, arch: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What Triton compiles the kernel of a case to."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from txgraph.backends.kernels.gpu import attention, linears

    for module in (attention, linears):
        monkeypatch.setattr(module, "wrap_triton", Recorded)
    with pytest.raises(Launched) as caught:
        case.check(operator_of(case, attention, linears))
    launched = caught.value
    options = {name: launched.named.pop(name) for name in ("num_warps", "num_stages")}
    names = launched.kernel.arg_names
    types, aligned = dict.fromkeys(launched.named, "constexpr"), {}
    for at, (name, value) in enumerate(zip(names, launched.args_given, strict=False)):
        types[name] = TYPES[value.dtype] if isinstance(value, torch.Tensor) else "i32"
        if isinstance(value, torch.Tensor) or value % 16 == 0:
            aligned[at,] = [["tt.divisibility", 16]]
    source = ASTSource(
        launched.kernel,
        {name: types[name] for name in names},
        {(names.index(name),): value for name, value in launched.named.items()},
        aligned,
    )
    return triton.compile(source, target=GPUTarget("cuda", GPUS[arch].number, 32), options=options)


@needs_triton
def test_numbers_in_the_interpreter() -> None:
    """And each of the faults in ``interpreted_gpu.py`` is seen."""
    path = "tests/backends/kernels/interpreted_gpu.py"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--tb=short", "-p", "no:cacheprovider", path],
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "skipped" not in done.stdout


@needs_triton
@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
@pytest.mark.parametrize(
    "case",
    [
        Attention(F16, D=64, Dv=64, joint=True),
        Attention(BF16, G=1, D=128, Dv=128, causal=True, mask="bias"),
        Int8((20,), K=256, N=128, activation="gelu"),
        WeightOnly((20,), 4, 64, 256, 128, BF16, activation="gelu_tanh"),
    ],
    ids=str,
)
def test_machine_code(case: Any, arch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is room for it on that GPU, and tensor cores multiply."""
    compiled = assembled(case, arch, monkeypatch)
    assert f".target {arch}" in compiled.asm["ptx"]
    assert compiled.asm["cubin"].startswith(b"\x7fELF")
    assert compiled.metadata.shared <= GPUS[arch].shared_memory[0]
    assert ("wgmma.mma_async" if arch == "sm_90" else "mma.sync") in compiled.asm["ptx"]
