"""Lower a graph through TVM: generated kernels, and between them calls of torch and of our own kernels."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from txgraph.backends.base import Compiled, Watch
from txgraph.backends.calls.attention import choose_attention
from txgraph.backends.calls.eager import Eager
from txgraph.backends.calls.gemm import choose_gemms, fused_activations
from txgraph.backends.calls.quantized import is_quantized, lower_quantized, unsupported_quantized
from txgraph.backends.calls.sparse import left_dense
from txgraph.backends.kernels.build import start, wait
from txgraph.backends.tvm.library import load_functions
from txgraph.backends.tvm.program import constants_of, fallbacks_of, kernels_of, program_of
from txgraph.backends.tvm.regions import Region
from txgraph.errors import BackendFailed
from txgraph.ir import Graph, describe, type_of
from txgraph.ir.kernel import compute_themselves
from txgraph.options import BackendOptions, Target
from txgraph.progress import say

MISSING = 'the tvm backend needs Apache TVM: pip install "txgraph[tvm]"'


@dataclass(frozen=True)
class TvmBackend:
    """Apache TVM: LLVM code for CPUs."""

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
        """Other devices than CPUs, and quantized linears without a kernel: all other operators can be called."""
        reasons = []
        for node in graph.nodes:
            tensor_type = type_of(node)
            if target.kind != "cpu" or (tensor_type is not None and tensor_type.device.type != "cpu"):
                reasons.append(
                    f"{describe(node)}: the tvm backend generates code for CPUs only, the target is {target}"
                )
            without_kernel = unsupported_quantized(node, target)
            reasons += [without_kernel] if without_kernel else []
        return reasons

    def obstacle(self, target: Target) -> str:
        """It generates code for CPUs only."""
        return 'the tvm backend generates code for CPUs only: use backend="inductor"'

    def prepare(self, weights: Iterable[torch.Tensor], target: Target) -> None:
        """Compile our own kernels, if they may be used."""
        if target.kind == "cpu":
            start("parallel")
            if any(weight.dtype is torch.float32 for weight in weights):
                start("kernels")

    def lower(self, graph: Graph, target: Target, options: BackendOptions) -> Compiled:
        """Compile; the weights are handed over at each call, not copied."""
        if not is_installed():
            raise BackendFailed(MISSING)
        say("lower", "kernels of our own, compiled once a machine")
        if is_quantized(graph):
            start("quantized")
        wait()
        lowered = graph.copy()
        compute_themselves(lowered)
        choices = choose_gemms(lowered, options.cache) | choose_attention(lowered, options.cache)
        choices |= left_dense(lowered, target.kind)
        lower_quantized(lowered)
        say("lower", "TVM")
        from txgraph.backends.tvm.compiler import generate  # imports tvm: seconds that a warm start does without

        generated = generate(lowered)
        regions = [(name, tuple(node.name for node in region.nodes)) for name, region in generated.regions]
        return _Lasting(graph, lowered, regions, generated.library, generated.codes, choices).compiled()

    def restore(self, kept: Any) -> Compiled:
        """Load what was compiled in another process."""
        if not is_installed():
            raise BackendFailed(MISSING)
        wait()
        compiled: Compiled = kept.compiled()
        return compiled


def is_installed() -> bool:
    """Whether TVM is there; it is not imported."""
    return importlib.util.find_spec("tvm") is not None


@dataclass(frozen=True)
class _Lasting:
    """All of a compiled graph but its functions: it can be pickled.

    Attributes:
        graph: the one that was given. lowered: with linears and attention chosen.
        regions: of each kernel's call the function, and the operators of ``lowered`` that it computes.
        library, codes: see :class:`txgraph.backends.tvm.compiler.Generated`.
    """

    graph: Graph
    lowered: Graph
    regions: list[tuple[str, tuple[str, ...]]]
    library: bytes
    codes: dict[str, str]
    choices: dict[str, str]

    def compiled(self) -> Compiled:
        """Load the functions, and put the calls together."""
        functions = load_functions(self.library, list(self.codes)) if self.codes else {}
        nodes = {node.name: node for node in self.lowered.nodes}
        regions = [(name, Region.of([nodes[each] for each in names])) for name, names in self.regions]
        program = program_of(self.lowered, regions, functions)
        weights = [self.lowered.constants[name] for name in constants_of(self.lowered)]
        run = Eager(program)

        def watched(tensors: Sequence[torch.Tensor], watch: Watch) -> Sequence[Any]:
            with watch.call():
                return run.watched([*weights, *tensors], watch.launch)

        return Compiled(
            lambda tensors: run(*weights, *tensors),
            "\n".join(self.codes.values()),
            self.choices,
            keep=lambda: self,
            frozen=self.lowered.constants.frozen_values(),
            kernels=kernels_of(self.graph, program, self.codes),
            watched=watched,
            fallbacks=fallbacks_of(program),
        )
