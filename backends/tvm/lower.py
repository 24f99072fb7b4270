"""Lower a graph through TVM: generated kernels, and between them calls of torch and of our own kernels."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from txgraph.backends.base import Compiled, Watch
from txgraph.backends.calls.attention import choose_attention
from txgraph.backends.calls.cuda_kernels import lower_for_cuda
from txgraph.backends.calls.eager import Eager
from txgraph.backends.calls.gemm import choose_gemms, fused_activations
from txgraph.backends.calls.linears import inline_activations, join_linears
from txgraph.backends.calls.quantized import is_quantized, lower_quantized, unsupported_quantized
from txgraph.backends.calls.sparse import left_dense
from txgraph.backends.gpus import absent_gpu, refuse, unknown
from txgraph.backends.kernels.build import start, wait
from txgraph.backends.tvm import worker
from txgraph.backends.tvm.code import Code, Gpu
from txgraph.backends.tvm.library import Kernels, load_functions
from txgraph.backends.tvm.linears import LinearGenerator
from txgraph.backends.tvm.program import constants_of, fallbacks_of, kernels_of, program_of
from txgraph.backends.tvm.regions import Region
from txgraph.errors import BackendFailed
from txgraph.ir import Graph, describe, type_of
from txgraph.ir.kernel import compute_themselves
from txgraph.options import BackendOptions, Target
from txgraph.progress import say

MISSING = 'the tvm backend needs Apache TVM: pip install "txgraph[tvm]"'
NO_NVCC = "CUDA's compiler nvcc is not here: install the CUDA toolkit, and have nvcc on the PATH or CUDA_HOME set"


@dataclass(frozen=True)
class TvmBackend:
    """Apache TVM: LLVM code for CPUs, CUDA for GPUs."""

    name: str = "tvm"
    fuses_elementwise: bool = True

    def fused_activations(self, target: Target) -> frozenset[str]:
        """What our own kernels and oneDNN fuse."""
        return fused_activations() if target.kind == "cpu" else frozenset()

    @property
    def settings(self) -> str:
        """The version of TVM."""
        return importlib.metadata.version("apache-tvm") if is_installed() else ""

    def unsupported(self, graph: Graph, target: Target) -> list[str]:
        """Tensors not on the target's device, dtypes that it lacks, quantized linears without a kernel on CPUs."""
        reasons = []
        gpu = absent_gpu(target)
        kind = target.kind if gpu is None else "cpu"
        for node in graph.nodes:
            tensor_type = type_of(node)
            if tensor_type is not None and tensor_type.device.type != kind:
                reasons.append(f"{describe(node)}: is on {tensor_type.device}, the target is {target}")
            if tensor_type is not None and gpu is not None and gpu.lacks(tensor_type.dtype):
                reasons.append(f"{describe(node)}: has dtype {tensor_type.dtype}, which {target} does not compute in")
            without_kernel = unsupported_quantized(node, target)
            reasons += [without_kernel] if without_kernel else []
        return reasons

    def obstacle(self, target: Target) -> str:
        """Nothing is known of GPUs of that architecture."""
        return unknown(target)

    def prepare(self, weights: Iterable[torch.Tensor], target: Target) -> None:
        """Compile our own kernels, if they may be used; for GPUs, have a process import TVM."""
        if target.kind != "cpu":
            worker.start()
        else:
            start("parallel")
            if any(weight.dtype is torch.float32 for weight in weights):
                start("kernels")

    def lower(self, graph: Graph, target: Target, options: BackendOptions) -> Compiled:
        """Compile; the weights are handed over at each call, not copied."""
        if not is_installed():
            raise BackendFailed(MISSING)
        say("lower", "kernels of our own, compiled once a machine")
        if is_quantized(graph) and target.kind == "cpu":
            start("quantized")
        wait()
        lowered = graph.copy()
        compute_themselves(lowered)
        choices = _call_on_cpu(lowered, options) if target.kind == "cpu" else _call_on_cuda(lowered)
        say("lower", "TVM")
        from txgraph.backends.tvm.compiler import generate  # imports tvm: seconds that a warm start does without

        gpu = _gpu(target) if target.kind == "cuda" else None
        generated = generate(lowered, gpu)
        if target.is_absent:
            choices["device"] = f"{target} is not here: its code was never run"
        if gpu is not None and not gpu.nvcc:
            choices["machine code"] = f"none, the code is CUDA source: {NO_NVCC}"
        regions = [(name, tuple(node.name for node in region.nodes)) for name, region in generated.regions]
        return _Lasting(graph, lowered, regions, generated.code, target, choices).compiled()

    def restore(self, kept: Any) -> Compiled:
        """Load what was compiled in another process."""
        if not is_installed():
            raise BackendFailed(MISSING)
        wait()
        compiled: Compiled = kept.compiled()
        return compiled


def _call_on_cpu(graph: Graph, options: BackendOptions) -> dict[str, str]:
    """Choose what computes linears and attention; what was measured, for the report."""
    with LinearGenerator(options.cache) as generator:
        choices = choose_gemms(graph, options.cache, generator)
    choices |= choose_attention(graph, options.cache)
    choices |= left_dense(graph, "cpu")
    lower_quantized(graph)
    return choices


def _call_on_cuda(graph: Graph) -> dict[str, str]:
    """Linears and attention are torch's, which takes cuBLAS and what attention kernel it finds best on the device."""
    choices = left_dense(graph, "cuda")
    lower_for_cuda(graph)
    join_linears(graph)
    inline_activations(graph)
    return choices


def _gpu(target: Target) -> Gpu:
    """The GPU that code is made for, and what assembles it.

    Raises:
        BackendFailed: the GPU is here, and what it runs cannot be made.
    """
    arch = target.arch
    if not target.is_absent:
        major, minor = torch.cuda.get_device_capability(target.index)
        arch = f"sm_{major}{minor}"
    assert arch is not None, "an absent target has one: see obstacle()"
    nvcc = find_nvcc()
    if not nvcc and not target.is_absent:
        raise BackendFailed(f'{NO_NVCC}, or use backend="inductor"')
    return Gpu(arch, nvcc)


def find_nvcc() -> str:
    """The path of CUDA's compiler; empty: there is none."""
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH") or "/usr/local/cuda"
    return shutil.which("nvcc") or shutil.which("nvcc", path=str(Path(home, "bin"))) or ""


def is_installed() -> bool:
    """Whether TVM is there; it is not imported."""
    return importlib.util.find_spec("tvm") is not None


def load(code: Code, target: Target) -> dict[str, Callable[..., Any]] | None:
    """The functions of generated code, by name; ``None``: they are for a GPU that this machine has not."""
    if target.is_absent:
        return None
    kernels = Kernels(code.source, code.fatbin) if code.fatbin else None
    return load_functions(code.library, list(code.functions), kernels) if code.functions else {}


@dataclass(frozen=True)
class _Lasting:
    """All of a compiled graph but its functions: it can be pickled.

    Attributes:
        graph: the one that was given. lowered: with linears and attention chosen.
        regions: of each kernel's call the function, and the operators of ``lowered`` that it computes.
    """

    graph: Graph
    lowered: Graph
    regions: list[tuple[str, tuple[str, ...]]]
    code: Code
    target: Target
    choices: dict[str, str]

    def compiled(self) -> Compiled:
        """Load the functions, and put the calls together."""
        functions = load(self.code, self.target)
        refused = refuse(self.target) if functions is None else None
        if functions is None:
            functions = dict.fromkeys(self.code.functions, refuse(self.target))
        nodes = {node.name: node for node in self.lowered.nodes}
        regions = [(name, Region.of([nodes[each] for each in names])) for name, names in self.regions]
        program = program_of(self.lowered, regions, functions)
        weights = [self.lowered.constants[name] for name in constants_of(self.lowered)]
        run = Eager(program)

        def watched(tensors: Sequence[torch.Tensor], watch: Watch) -> Sequence[Any]:
            with watch.call():
                return run.watched([*weights, *tensors], watch.launch)

        return Compiled(
            refused or (lambda tensors: run(*weights, *tensors)),
            self.code.source,
            self.choices,
            keep=None if refused else lambda: self,
            frozen=self.lowered.constants.frozen_values(),
            kernels=kernels_of(self.graph, program, self.code),
            watched=None if refused else watched,
            fallbacks=fallbacks_of(program),
        )
