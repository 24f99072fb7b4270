"""TVM for a GPU that is not there: source and machine code, nothing that runs, and a process that may crash."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import txgraph
from tests.backends.cuda_models import bert
from tests.backends.test_cuda import IDS
from tests.helpers import normal
from tests.small import MLP, apply, graph_of, module
from txgraph import BackendFailed, BackendOptions
from txgraph.backends.tvm import TvmBackend, library, lower, worker
from txgraph.backends.tvm.launch import Launch
from txgraph.backends.tvm.regions import Region
from txgraph.ir import without_kernel
from txgraph.options import Target
from txgraph.passes import WeightOnly

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("tvm") is None, reason="Apache TVM is not installed"),
    pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU: nothing is absent"),
]
needs_nvcc = pytest.mark.skipif(not lower.find_nvcc(), reason="CUDA's compiler nvcc is not here")


def compiled(model: nn.Module, *args: torch.Tensor, target: str = "cuda:sm_90", **more: Any) -> txgraph.OptimizedModel:
    return txgraph.optimize(model, args, backend="tvm", target=target, **{"verify": "off", **more})


@needs_nvcc
def test_machine_code() -> None:
    """Generated kernels are CUDA and machine code, others are torch's for GPUs, and all operators are accounted for."""
    batch = {"input_ids": IDS, "attention_mask": (IDS < 20).long()}
    fast = compiled(bert().half(), kwargs=batch)
    kernels = fast.kernels()
    generated = [kernel for kernel in kernels if kernel.kind == "generated"]
    assert {kernel.name.rpartition("_")[0] for kernel in generated} >= {"fused_add_layer_norm", "fused_gelu"}
    for kernel in generated:
        assert f"{kernel.name}_kernel(" in kernel.code
        assert kernel.code in fast.code()
        assert f".entry {kernel.name}_kernel" in kernel.ptx
        assert kernel.cubin.startswith(b"\x7fELF")
    called = {kernel.name for kernel in kernels if kernel.kind == "library"}
    assert called == {"aten.linear", "aten.scaled_dot_product_attention", "aten.embedding", "aten.index"}
    assert not [kernel.name for kernel in kernels if kernel.kind == "txgraph"]
    assert set(without_kernel(fast.graph_after, kernels).values()) <= {"view", "item", "size"}
    assert fast.report.fallbacks == []
    assert "device: cuda:sm_90 is not here: its code was never run" in str(fast.report)
    with pytest.raises(BackendFailed, match="compiled for cuda:sm_90, and this machine has no such device"):
        fast(**batch)


def test_without_nvcc_the_code_is_source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lower, "find_nvcc", lambda: "")
    fast = compiled(module(lambda x: F.softmax(x, -1)), normal(4, 96))
    assert "machine code: none, the code is CUDA source: CUDA's compiler nvcc is not here" in str(fast.report)
    assert "__shfl_down_sync" in fast.code()
    (kernel,) = [kernel for kernel in fast.kernels() if kernel.kind == "generated"]
    assert "__global__" in kernel.code
    assert kernel.cubin == b""


def test_quantized_weights_are_multiplied_by_our_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lower, "find_nvcc", lambda: "")
    model = nn.Sequential(nn.Linear(256, 512), nn.GELU(), nn.Linear(512, 256)).eval()
    graph, _ = apply(WeightOnly(bits=8), graph_of(model, normal(5, 256)))
    made = TvmBackend().lower(graph, Target("cuda", arch="sm_90"), BackendOptions())
    kinds = [kernel.kind for kernel in made.kernels if kernel.name != "getitem"]
    assert kinds == ["txgraph", "generated", "txgraph"]
    assert made.keep is None  # there is nothing that runs


def test_nvcc_that_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    nvcc = tmp_path / "nvcc"
    nvcc.write_text("#!/bin/sh\necho unsupported architecture >&2\nexit 1\n")
    nvcc.chmod(0o755)
    monkeypatch.setattr(lower, "find_nvcc", lambda: str(nvcc))
    with pytest.raises(BackendFailed, match="nvcc failed: unsupported architecture"):
        compiled(module(lambda x: x * 2 + 1), normal(4, 96))


@pytest.mark.parametrize(
    ("target", "more", "error", "message"),
    [
        ("cuda:sm_12345", {}, BackendFailed, r"compile for cuda:sm_12345.*it is not known: one of cuda:sm_75, .*sm_90"),
        ("cuda", {}, BackendFailed, r"without a GPU the target must name its architecture: one of cuda:sm_75"),
        ("cuda:sm_90", {"verify": "final"}, ValueError, r"pass verify=\"off\""),
    ],
)
def test_what_cannot_be_done(target: str, more: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        compiled(MLP(), normal(3, 4), target=target, **more)


def test_a_dtype_that_the_gpu_lacks() -> None:
    with pytest.raises(txgraph.UnsupportedOp, match=r"has dtype torch.bfloat16, which cuda:sm_75 does not compute in"):
        compiled(MLP().bfloat16(), normal(3, 4).bfloat16(), target="cuda:sm_75")


def test_tensors_on_another_device_are_refused() -> None:
    graph = graph_of(MLP(), torch.ones(2, 4))
    for node in graph.nodes:
        if isinstance(value := node.meta.get("val"), torch.Tensor):
            node.meta["val"] = value.to("meta")
    reasons = TvmBackend().unsupported(graph, Target("cpu"))
    assert any("= linear" in reason and "is on meta, the target is cpu" in reason for reason in reasons)


# The process that generates code.

CRASHES = "import os, sys; input(); print('stack of a crash', file=sys.stderr, flush=True); os.abort()"
HANGS = "import sys, time; print('thinking', file=sys.stderr, flush=True); time.sleep(60)"
FAILS = """print('{"failed": "InternalError: no"}') if input() else None"""


@pytest.mark.parametrize(
    ("script", "seconds", "message"),
    [
        (CRASHES, 30.0, r"crashed as it generated code \(signal 6\): stack of a crash"),
        (HANGS, 1.0, r"did not generate code within 1 s: thinking"),
        (FAILS, 30.0, r"failed on this graph: InternalError: no"),
    ],
)
def test_a_crash_is_an_error(
    script: str, seconds: float, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "script.py"
    path.write_text(script)
    monkeypatch.setattr(worker, "_worker", None)
    monkeypatch.setattr(worker.codegen, "__file__", str(path))
    for _ in range(2):  # another process takes the place of the first
        with pytest.raises(BackendFailed, match=message):
            worker.compile_folder(tmp_path, seconds)
        assert worker._worker is not None
        worker._worker.close()


# Private names of TVM.


def test_functions_reach_the_process_as_they_are() -> None:
    import tvm
    import tvm_ffi

    from txgraph.backends.tvm.kernel import converts, function_of
    from txgraph.backends.tvm.regions import find_regions
    from txgraph.backends.tvm.schedule_cuda import scheduled_for_cuda

    model = module(lambda x: F.layer_norm(F.gelu(x * 2).masked_fill(x > 1, float("-inf")), (64,)))
    with tvm.target.Target({"kind": "cuda", "arch": "sm_90"}):
        (region,) = find_regions(graph_of(model, normal(4, 64).half()), converts)
        function = scheduled_for_cuda(function_of(region), "name")
    assert tvm_ffi.structural_equal(function, tvm.script.from_source(function.script()))


def test_the_runtime_is_given_machine_code() -> None:
    import tvm
    import tvm_ffi

    text = (library._libraries() / "libtvm_runtime_cuda.so").read_bytes()
    assert library._COMPILES.encode() in text
    assert b"ffi.Module.load_from_bytes.cuda" in text  # which tests/backends/emulated_cuda.py answers to
    assert tvm.support.nvcc.tvm_callback_cuda_compile  # registered under that name
    before = tvm_ffi.get_global_func(library._COMPILES)
    with library._assembled(library.Kernels("source", b"machine code")):
        compile_cuda = tvm_ffi.get_global_func(library._COMPILES)
        assert bytes(compile_cuda("source")) == b"machine code"
        with pytest.raises(ValueError, match="not the source that was compiled"):
            compile_cuda("another")
    assert tvm_ffi.get_global_func(library._COMPILES).same_as(before)


def test_vectors_are_read_from_where_they_begin() -> None:
    """A GPU stops at others."""
    taken: list[int] = []
    graph = graph_of(module(lambda x: x * 2 + 1), normal(4, 8))
    launch = Launch("name", lambda x, y: taken.append(x.data_ptr() % 16), Region.of(graph.calls()))
    launch._aligned = True  # as on a GPU
    launch(torch.zeros(33)[1:].view(4, 8))
    assert taken == [0]


def test_without_cuda_the_runtime_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: Any) -> Callable[..., None]:
        raise OSError("libcudart.so.13: cannot open shared object file")

    library._start_cuda_runtime.cache_clear()
    monkeypatch.setattr(library.ctypes, "CDLL", missing)
    with pytest.raises(BackendFailed, match=r"libcudart\.so\.13.*pip install nvidia-cuda-runtime"):
        library._start_cuda_runtime()
