"""Compiled for a GPU that is not there: machine code for each kernel, nothing for CPUs in it, and nothing that runs."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.export import Dim

import txgraph
from tests.backends.cuda_models import bert, gpt2, llama
from tests.helpers import normal
from tests.small import MLP, Encoder, module
from txgraph import BackendFailed
from txgraph.backends.gpus import GPUS
from txgraph.ir import without_kernel

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU: nothing is absent")

IDS = torch.arange(24).reshape(2, 12)


def compiled(model: nn.Module, *args: torch.Tensor, target: str = "cuda:sm_90", **more: Any) -> txgraph.OptimizedModel:
    return txgraph.optimize(model, args, backend="inductor", target=target, verify="off", **more)


def without_number(code: str) -> str:
    """Generated code without the number of its compilation."""
    return re.sub(r"AOT ID: .*", "", code)


def axes(batch: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Batch and sequence vary."""
    return {name: {0: Dim.AUTO, 1: Dim.AUTO} for name in batch}


def check_machine_code(fast: txgraph.OptimizedModel) -> None:
    """Generated kernels are compiled for sm_90, others are torch's for GPUs, and all operators are accounted for."""
    kernels = fast.kernels()
    generated = [kernel for kernel in kernels if kernel.kind == "generated"]
    assert generated
    for kernel in generated:
        assert kernel.name.startswith("triton_")
        assert "@triton.jit" in kernel.code
        assert ".target sm_90" in kernel.ptx
        assert kernel.cubin.startswith(b"\x7fELF")
    library = {kernel.name for kernel in kernels} - {kernel.name for kernel in generated}
    assert library <= {"aten.mm", "aten.addmm", "aten._scaled_dot_product_efficient_attention"}
    assert "aten._scaled_dot_product_efficient_attention" in library
    assert all(kernel.nodes for kernel in kernels)
    assert set(without_kernel(fast.graph_after, kernels).values()) <= {"view", "item", "size", "removed"}
    code = fast.code()
    assert "empty_strided_cuda(" in code
    for_cpus = ("linears_native", "attention_native", "mkldnn", "cpp_fused", "for_cpu", "empty_strided_cpu(")
    assert not [name for name in for_cpus if name in code]


@pytest.mark.parametrize(
    ("make", "dynamic", "dtype"),
    [(bert, False, torch.bfloat16), (gpt2, True, torch.float32), (llama, False, torch.float16)],
)
def test_every_kernel_is_machine_code(make: Callable[[], nn.Module], dynamic: bool, dtype: torch.dtype) -> None:
    """Others are in test_cuda_numbers.py."""
    batch = {"input_ids": IDS, "attention_mask": (IDS < 20).long()}
    fast = compiled(make().to(dtype), kwargs=batch, dynamic_shapes=axes(batch) if dynamic else None)
    check_machine_code(fast)
    with pytest.raises(BackendFailed, match=r"compiled for cuda:sm_90, and this machine has no such device"):
        fast(**batch)


def test_the_report_says_that_nothing_ran() -> None:
    fast = compiled(MLP(), normal(3, 4))
    assert "device: cuda:sm_90 is not here: compiled as for an NVIDIA H100, never run" in str(fast.report)
    with pytest.raises(BackendFailed, match="no such device"):
        fast.profile(normal(3, 4))


@pytest.mark.parametrize("arch", sorted(GPUS))
def test_architectures(arch: str) -> None:
    fast = compiled(module(lambda x: torch.softmax(x, -1)), normal(4, 64), target=f"cuda:{arch}")
    (kernel,) = fast.kernels()
    assert f".target {arch}" in kernel.ptx
    assert kernel.cubin.startswith(b"\x7fELF")


def test_half_without_a_mask_is_flash_attention() -> None:
    model = module(lambda q, k: nn.functional.scaled_dot_product_attention(q, k, k, is_causal=True))
    half = normal(2, 2, 16, 8).half()
    assert [k.name for k in compiled(model, half, half + 1).kernels()] == ["aten._scaled_dot_product_flash_attention"]


def test_layers_share_their_machine_code() -> None:
    layer = nn.Linear(16, 16)
    model = nn.Sequential(*(nn.Sequential(nn.Linear(16, 16), nn.GELU(), nn.LayerNorm(16)) for _ in range(3)), layer)
    fast = compiled(model.eval(), normal(4, 16), options={"layers": True})
    gelus = [k for k in fast.kernels() if "gelu" in k.name]
    assert len(gelus) == 3
    assert len({k.cubin for k in gelus}) == 1
    assert len({k.nodes for k in gelus}) == 3


def test_what_runs_here_is_as_before() -> None:
    """Compiled before and after something for a GPU, CPU code is the same, and torch knows of no GPU."""
    x = IDS, (IDS < 20).long()

    def on_cpu() -> str:
        model = Encoder().double()  # of float32 a stopwatch would choose the kernels
        fast = txgraph.optimize(model, x, backend="inductor", verify="final")
        assert not fast.report.fallbacks
        return without_number(fast.code())

    before = on_cpu()
    first, second = ([kernel.code for kernel in compiled(Encoder(), *x).kernels()] for _ in range(2))
    assert first == second
    assert on_cpu() == before
    assert torch.version.cuda is None
    assert not torch.cuda.is_available()
    assert torch.cuda.device_count() == 0


@pytest.mark.parametrize(
    ("target", "more", "error", "message"),
    [
        ("cuda:sm_42", {}, BackendFailed, r"compile for cuda:sm_42.*it is not known: one of cuda:sm_75, .*cuda:sm_90"),
        ("cuda", {}, BackendFailed, r"without a GPU the target must name its architecture: one of cuda:sm_75"),
        ("cuda:0", {}, BackendFailed, r"without a GPU the target must name its architecture"),
        ("cuda:sm_90", {"verify": "final"}, ValueError, r"verify='final' runs what is compiled.*pass verify=\"off\""),
        ("cuda:sm_90", {"measure": "rewrites"}, ValueError, r"measure='rewrites' runs.*pass measure=\"off\""),
        ("cuda:sm_90", {"backend": "reference"}, BackendFailed, r"compiles nothing: use backend=\"inductor\""),
        (
            "cuda:sm_90",
            {"options": {"inductor": {"max_autotune": True}}},
            BackendFailed,
            r"max_autotune needs the GPU itself: leave it out",
        ),
    ],
)
def test_what_cannot_be_done(target: str, more: dict[str, Any], error: type[Exception], message: str) -> None:
    options = {"backend": "inductor", "verify": "off", **more}
    with pytest.raises(error, match=message):
        txgraph.optimize(MLP(), (normal(3, 4),), target=target, **options)


def test_a_dtype_that_the_gpu_lacks() -> None:
    x = normal(3, 4).bfloat16()
    with pytest.raises(txgraph.UnsupportedOp, match=r"has dtype torch.bfloat16, which cuda:sm_75 does not compute in"):
        compiled(MLP().bfloat16(), x, target="cuda:sm_75")


def test_without_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BackendFailed, match=r"Triton is not installed: pip install 'txgraph\[cuda\]'"):
        compiled(MLP(), normal(3, 4))


def test_a_gpu_that_is_there_is_not_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(NotImplementedError, match=r"the weights are on cpu and the target is cuda:sm_90. Move the mod"):
        compiled(MLP(), normal(3, 4))


def test_nothing_is_kept_for_other_processes(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("TXGRAPH_CACHE", str(tmp_path))
    compiled(MLP(), normal(3, 4))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
