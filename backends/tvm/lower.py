"""Lower a graph through TVM: generated kernels, and between them calls of torch and of our own kernels."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from txgraph.backends.base import Compiled, Watch
from txgraph.backends.inductor.attention import choose_attention
from txgraph.backends.inductor.eager import Eager
from txgraph.backends.inductor.gemm import choose_gemms, fused_activations
from txgraph.backends.inductor.kernels import compute_themselves
from txgraph.backends.inductor.quantized import is_quantized, lower_quantized, unsupported_quantized
from txgraph.backends.kernels.build import start, wait
from txgraph.backends.tvm.program import constants_of, kernels_of, program_of
from txgraph.backends.tvm.regions import Region, find_regions, has_plain_rows, is_contiguous
from txgraph.errors import BackendFailed
from txgraph.ir import Graph, describe, op_name, type_of
from txgraph.ir.subgraph import kind_of
from txgraph.options import BackendOptions, Target
from txgraph.progress import say


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
                reasons.append(f"{describe(node)}: the tvm backend generates code for CPUs only, the target is {target}")
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
        say("lower", "kernels of our own, compiled once a machine")
        if is_quantized(graph):
            start("quantized")
        wait()
        lowered = graph.copy()
        compute_themselves(lowered)
        choices = choose_gemms(lowered, options.cache) | choose_attention(lowered, options.cache)
        lower_quantized(lowered)
        regions, functions = _kernels(lowered)
        say("lower", f"{len(functions)} kernels by TVM")
        library, code = _adapter().compile_functions(functions)
        codes = {name: str(function) for name, function in functions.items()}
        names = [(name, tuple(node.name for node in region.nodes)) for name, region in regions]
        return _Lasting(graph, lowered, names, library, codes, code, choices).compiled()

    def restore(self, kept: Any) -> Compiled:
        """Load what was compiled in another process."""
        if not isinstance(kept, _Lasting):
            raise BackendFailed("this was not kept by the tvm backend")
        wait()
        return kept.compiled()


@dataclass(frozen=True)
class _Lasting:
    """All of a compiled graph but its functions: it can be pickled.

    Attributes:
        graph: the one that was given. lowered: with linears and attention chosen.
        regions: of each kernel's call the function, and the operators of ``lowered`` that it computes.
        library: see :func:`compile_functions`. codes: of each function, as TIR. code: of all of them, as LLVM's.
    """

    graph: Graph
    lowered: Graph
    regions: list[tuple[str, tuple[str, ...]]]
    library: bytes
    codes: dict[str, str]
    code: str
    choices: dict[str, str]

    def compiled(self) -> Compiled:
        """Load the functions."""
        functions = _adapter().load_functions(self.library, list(self.codes)) if self.codes else {}
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
        )


def _kernels(graph: Graph) -> tuple[list[tuple[str, Region]], dict[str, Any]]:
    """The regions of a graph with the names of their functions, and these; equal regions share one."""
    from txgraph.backends.tvm.kernel import converts, function_of
    from txgraph.backends.tvm.schedule import scheduled

    named: dict[str, str] = {}
    functions: dict[str, Any] = {}
    regions = []
    for region in find_regions(graph, converts):
        kind = _kind(graph, region)
        if kind not in named:
            operators = "_".join(dict.fromkeys(op_name(node).rpartition(":")[2] for node in region.nodes))
            named[kind] = f"fused_{operators[:60]}_{len(named)}"
            functions[named[kind]] = scheduled(function_of(region), named[kind])
        regions.append((named[kind], region))
    return regions, functions


def _kind(graph: Graph, region: Region) -> str:
    """Equal for regions that can run the same function."""
    layouts = [(str(n.meta["val"].dtype), is_contiguous(n), has_plain_rows(n)) for n in region.inputs]
    types = [str(type_of(node)) for node in region.inputs]
    return f"{kind_of(graph, [node.name for node in region.nodes])} {layouts} {types} {region.symbols}"


def _adapter() -> Any:
    """What imports tvm: most of four seconds, where nothing is to be lowered none."""
    if not is_installed():
        raise BackendFailed(MISSING)
    from txgraph.backends.tvm import adapter

    return adapter


MISSING = 'the tvm backend needs Apache TVM: pip install "txgraph[tvm]"'


def is_installed() -> bool:
    """Whether TVM is there; it is not imported."""
    return importlib.util.find_spec("tvm") is not None
