"""Lower a graph through Inductor."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch.fx import Node

from txgraph.backends.base import Compiled
from txgraph.backends.calls.attention import choose_attention
from txgraph.backends.calls.cuda_kernels import lower_for_cuda
from txgraph.backends.calls.eager import Eager
from txgraph.backends.calls.gemm import choose_gemms, fused_activations
from txgraph.backends.calls.linears import inline_activations, join_linears
from txgraph.backends.calls.quantized import is_quantized, lower_quantized, unsupported_quantized
from txgraph.backends.calls.sparse import left_dense
from txgraph.backends.gpus import absent_gpu, unknown
from txgraph.backends.inductor.adapter import (
    artifact_bytes,
    check_settings,
    compile_graph,
    compiled_together,
    libraries,
    load_artifact,
    settings,
)
from txgraph.backends.inductor.cuda_adapter import compile_for, cuda_device, missing
from txgraph.backends.inductor.cuda_attention import choose_cuda_attention
from txgraph.backends.inductor.devices import move
from txgraph.backends.inductor.generated import Generated, Launch
from txgraph.backends.inductor.head import cut_head
from txgraph.backends.inductor.kernels import kernels_of
from txgraph.backends.inductor.mutations import write_in_place, written_in_place
from txgraph.backends.inductor.program import Plan, Program, constant_nodes
from txgraph.backends.inductor.softcap import inline_softcap, softcap_to_flex
from txgraph.backends.inductor.worth import not_worth_compiling
from txgraph.backends.kernels.build import start, wait
from txgraph.backends.pieces import layers
from txgraph.errors import BackendFailed
from txgraph.ir import Graph, Kernel, describe, type_of
from txgraph.ir.kernel import compute_themselves
from txgraph.options import BackendOptions, Target
from txgraph.progress import say, track


@dataclass(frozen=True)
class InductorBackend:
    """torch's compiler: C++ with OpenMP on CPUs, Triton on GPUs."""

    name: str = "inductor"
    fuses_elementwise: bool = True

    def fused_activations(self, target: Target) -> frozenset[str]:
        """What oneDNN fuses, on CPUs."""
        return fused_activations() if target.kind == "cpu" else frozenset()

    @property
    def settings(self) -> str:
        """The settings of Inductor that hold in this process."""
        return settings()

    def unsupported(self, graph: Graph, target: Target) -> list[str]:
        """Tensors not on the target's device, layouts Inductor does not know, quantized linears without a kernel."""
        reasons = []
        gpu = absent_gpu(target)
        kind = target.kind if gpu is None else "cpu"
        for node in graph.nodes:
            tensor_type = type_of(node)
            if tensor_type is not None and tensor_type.device.type != kind:
                reasons.append(f"{describe(node)}: is on {tensor_type.device}, the target is {target}")
            if tensor_type is not None and gpu is not None and gpu.lacks(tensor_type.dtype):
                reasons.append(f"{describe(node)}: has dtype {tensor_type.dtype}, which {target} does not compute in")
            value = node.meta.get("val")
            if isinstance(value, torch.Tensor) and value.layout is not torch.strided:
                reasons.append(f"{describe(node)}: has layout {value.layout}")
            without_kernel = unsupported_quantized(node, target)
            reasons += [without_kernel] if without_kernel else []
        return reasons

    def obstacle(self, target: Target) -> str:
        """Nothing is known of GPUs of that architecture, or Triton is missing."""
        return unknown(target) or missing()

    def prepare(self, weights: Iterable[torch.Tensor], target: Target) -> None:
        """Compile our own kernels, if they may be used."""
        if target.kind == "cpu" and any(weight.dtype is torch.float32 for weight in weights):
            start("kernels")

    def lower(self, graph: Graph, target: Target, options: BackendOptions) -> Compiled:
        """Compile; the weights are handed over at each call, not copied."""
        say("lower", "kernels of our own, compiled once a machine")
        if is_quantized(graph) and target.kind == "cpu":
            start("quantized")
        wait()
        check_settings(options.inductor)
        lowered = graph.copy()
        compute_themselves(lowered)
        head = cut_head(lowered)
        choices: dict[str, str] = {}
        if target.kind == "cpu":
            choices = _choose(lowered, options.cache)
            lower_quantized(lowered)
        else:
            lower_for_cuda(lowered)
        gpu = absent_gpu(target)
        if gpu is not None:
            choose_cuda_attention(lowered, gpu)
            choices["device"] = f"{target} is not here: compiled as for an NVIDIA {gpu.name}, never run"
        choices |= left_dense(lowered, target.kind)
        join_linears(lowered)
        inline_activations(lowered)
        inline_softcap(lowered, target)
        _name_constants_once(lowered)
        pieces = layers(lowered, target, options.layers)
        written = written_in_place(lowered, pieces)
        codes: dict[int, Generated | Eager] = {}
        small = not_worth_compiling(lowered, pieces, target)
        own = [number for number, piece in enumerate(pieces) if piece.like == number]
        with compiled_together() if target.kind == "cpu" else contextlib.nullcontext(lambda: None) as wait_for_all:
            for number in track(own, "compile", lambda number: f"{len(pieces[number].names)} operators"):
                part = pieces[number].graph(lowered)
                compute_themselves(part)
                part = write_in_place(part, written)
                codes[number] = Eager(part) if number in small else _compile(part, options, target)
        with _failures():
            wait_for_all()
        weights = [lowered.constants[str(node.target)] for node in constant_nodes(lowered)]
        places = frozenset(at for at, value in enumerate(lowered.outputs) if str(value) in written)
        plan, frozen = Plan.of(lowered, pieces, written), lowered.constants.frozen_values()
        source = "\n".join(code.source for code in codes.values())
        kernels = kernels_of(graph, lowered, pieces, codes, head)
        compiled = _Lasting(plan, weights, head, source, choices, places, frozen, kernels).compiled(codes)
        return compiled if gpu is None else replace(compiled, keep=None)  # there is nothing that runs

    def restore(self, kept: Any) -> Compiled:
        """Load what was compiled in another process; Inductor compiles again what its own cache has lost."""
        wait()
        lasting, artifacts = kept
        try:
            codes = {at: each if isinstance(each, Eager) else each.load() for at, each in artifacts.items()}
        except Exception as error:  # Inductor raises whatever its loading raises
            raise BackendFailed(f"Inductor cannot load a kept graph: {type(error).__name__}: {error}") from error
        return cast(_Lasting, lasting).compiled(codes)


@dataclass(frozen=True)
class _Artifact:
    """Generated code as it is kept."""

    data: bytes
    source: str
    launches: tuple[Launch, ...]
    libraries: tuple[str, ...]

    @classmethod
    def of(cls, code: Generated) -> _Artifact:
        return cls(artifact_bytes(code.function), code.source, code.launches, libraries(code.namespace))

    def load(self) -> Generated:
        function, namespace = load_artifact(self.data, self.libraries)
        return Generated(function, self.source, self.launches, namespace)


@dataclass(frozen=True)
class _Lasting:
    """All of a compiled graph but its functions: it can be pickled."""

    plan: Plan
    weights: list[torch.Tensor]
    head: Eager | None
    code: str
    choices: dict[str, str]
    in_place: frozenset[int]
    frozen: frozenset[str]
    kernels: tuple[Kernel, ...]

    def compiled(self, codes: Mapping[int, Generated | Eager]) -> Compiled:
        program = Program(self.plan, codes, self.weights, self.head)
        return Compiled(
            program.run,
            self.code,
            self.choices,
            program.update,
            self.in_place,
            functools.partial(self._kept, codes),
            self.frozen,
            self.kernels,
            program.watched,
        )

    def _kept(self, codes: Mapping[int, Generated | Eager]) -> Any:
        try:
            return self, {at: code if isinstance(code, Eager) else _Artifact.of(code) for at, code in codes.items()}
        except RuntimeError as error:
            raise BackendFailed(f"Inductor cannot store a graph: {_first_line(error)}") from error


def _compile(graph: Graph, options: BackendOptions, target: Target) -> Generated:
    gpu = absent_gpu(target)
    if gpu is not None:
        move(graph, cuda_device())
    module = torch.fx.GraphModule(torch.nn.Module(), graph.fx)
    softcap_to_flex(module)
    examples = [n.meta["val"] for n in module.graph.nodes if n.op == "placeholder"]
    with _failures():
        if gpu is not None:
            return compile_for(gpu, module, examples, options.inductor, target)
        return compile_graph(module, examples, options.inductor)


@contextlib.contextmanager
def _failures() -> Iterator[None]:
    """What Inductor raises meanwhile is a failure of the backend."""
    try:
        yield
    except BackendFailed:
        raise
    except Exception as error:  # Inductor raises whatever its lowerings raise
        raise BackendFailed(f"Inductor failed on this graph: {type(error).__name__}: {_first_line(error)}") from error


def _choose(graph: Graph, remembers: bool) -> dict[str, str]:
    return choose_gemms(graph, remembers) | choose_attention(graph, remembers)


def _name_constants_once(graph: Graph) -> None:
    """One node for each constant, so that each is handed over once."""
    first: dict[Any, Node] = {}
    for node in [n for n in graph.nodes if n.op == "get_attr"]:
        if first.setdefault(node.target, node) is not node:
            node.replace_all_uses_with(first[node.target])
            graph.fx.erase_node(node)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0]
