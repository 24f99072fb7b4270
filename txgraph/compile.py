"""The one road: capture -> pipeline -> lower -> verify, for one call of one model."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from txgraph.backends import Backend, Compiled, choose_backend
from txgraph.backends.reference import ReferenceBackend
from txgraph.capture import InputGuard, ModelState, capture
from txgraph.cost import CostModel, hardware_of
from txgraph.errors import GuardFailed, UnsupportedOp, VerificationFailed
from txgraph.ir import Graph, type_of
from txgraph.ir.padding import may_be_mask
from txgraph.measure import RewriteTimer
from txgraph.options import CompileOptions, Target
from txgraph.pipeline import PassRecord, PassResult, Pipeline
from txgraph.report import Fallback, GraphReport, Report
from txgraph.rewrite import PassContext
from txgraph.verify import Verifier

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CompiledCall:
    """A compiled graph with all that is needed to answer calls that fit it.

    Attributes:
        structure: of the calls it answers. guard, state: what it assumed of inputs and model.
        before, after: the captured graph, and the one that was lowered.
        context: what the passes knew.
        compiled: takes the tensors of a call, gives all outputs: mutated values first.
    """

    structure: tuple[Any, ...]
    guard: InputGuard
    state: ModelState
    before: Graph
    after: Graph
    context: PassContext
    compiled: Compiled
    out_spec: pytree.TreeSpec
    report: GraphReport

    def __call__(self, tensors: Sequence[torch.Tensor]) -> Any:
        """Run, write mutated values back, and put the outputs together.

        Raises:
            GuardFailed: an input requires grad, or shares memory with one that the model writes to.
        """
        if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
            raise GuardFailed("an input requires grad: call the optimized model under torch.no_grad()")
        graph = self.after
        if any(m.kind == "input" for m in graph.mutations) and _overlap(tensors):
            raise GuardFailed(
                "the model writes to an input, and two inputs of this call share memory: pass a clone of one of them"
            )
        buffers = [graph.constants[m.target] for m in graph.mutations if m.kind == "buffer"]
        if buffers and _memory(buffers) & _memory(tensors):
            raise GuardFailed("the model writes to a buffer that is an input of this call: pass a clone of it")
        with torch.no_grad():
            taken = [t if t.is_contiguous() else t.contiguous() for t in tensors]
            if graph.mutations:
                outputs = self._write(tensors, taken)[len(graph.mutations) :]
            else:
                outputs = self.compiled.run(taken)
        if self.out_spec.is_leaf():
            return outputs[0]
        return pytree.tree_unflatten(outputs, self.out_spec)

    def _write(self, tensors: Sequence[torch.Tensor], taken: Sequence[torch.Tensor]) -> Sequence[Any]:
        """Run, and give what the model writes to its new values; one of these may be what another is written to.

        Args:
            tensors: of the call. taken: the same, contiguous.
        """
        graph, update, in_place = self.after, self.compiled.update, self.compiled.in_place
        names = [n.name for n in graph.inputs]
        written = [
            graph.constants[m.target] if m.kind == "buffer" else tensors[names.index(m.target)] for m in graph.mutations
        ]
        if update is None or not all(written[at].is_contiguous() for at in in_place):  # else it would write to a copy
            outputs, in_place = self.compiled.run(taken), frozenset()
        else:
            outputs = update(taken)
            torch.autograd.graph.increment_version([t for at in in_place if not (t := written[at]).is_inference()])
        rest = [at for at in range(len(written)) if at not in in_place]
        memory = _memory([written[at] for at in rest])
        values = [outputs[at].clone() if _memory([outputs[at]]) & memory else outputs[at] for at in rest]
        for at, value in zip(rest, values, strict=True):
            written[at].copy_(value)
        return outputs


def _memory(tensors: Sequence[torch.Tensor]) -> set[int]:
    return {t.untyped_storage().data_ptr() for t in tensors if t.numel()}


def _overlap(tensors: Sequence[torch.Tensor]) -> bool:
    """Whether two tensors share a storage."""
    return len(_memory(tensors)) < sum(t.numel() > 0 for t in tensors)


def compile_call(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    tensors: Sequence[torch.Tensor],
    structure: tuple[Any, ...],
    pipeline: Pipeline,
    options: CompileOptions,
    report: Report,
    dynamic_shapes: Any = None,
) -> CompiledCall:
    """Go down the whole road for one call, and add to ``report`` what was done.

    Raises:
        CaptureFailed, PassFailed, UnsupportedOp, BackendFailed, VerificationFailed: see :mod:`txgraph.errors`.
    """
    clock = _Clock()
    target = options.target or Target("cpu")
    backend = choose_backend(options.backend)
    backend.prepare(model.parameters(), target)
    with clock("capture"):
        captured = capture(model, args, kwargs, dynamic_shapes)
    before = captured.graph
    verifier = Verifier(options.verify, model, args, kwargs, tensors)
    with clock("verify"):
        verifier.check_capture(before)
    hardware = options.backend_options.hardware or hardware_of(target)
    cost = CostModel(hardware, backend.fuses_elementwise)
    timer = RewriteTimer(backend, target, options.backend_options) if options.measure == "rewrites" else None
    masks = {str(n.target): t.detach().clone() for n, t in zip(before.inputs, tensors, strict=True) if may_be_mask(t)}
    context = PassContext(target, backend.fused_activations(target), cost, weighs=timer is None, inputs=masks)

    def between_passes(result: PassResult) -> str | Mapping[str, str]:
        if timer is not None:
            with clock("measure"):
                slower = timer.slower(result)
            if slower:
                return slower
        with clock("verify"):
            return verifier.between_passes(result)

    with clock("passes"):
        after, records = pipeline.run(before, context, between_passes)
    vetoes = {(record.name, root): reason for record in records for root, reason in record.vetoed.items()}
    context = replace(context, vetoes=vetoes)
    with clock("lower"):
        compiled = _lower(backend, after, target, options)
    with clock("verify"):
        broken = verifier.check_backend(compiled.run, after.zeroed)
    if broken:
        report.fallbacks.append(
            Fallback(f"backend {backend.name}", f"its result broke a gate, the graph is interpreted: {broken}")
        )
        log.warning("backend %s broke a gate and was replaced by the reference backend: %s", backend.name, broken)
        backend = ReferenceBackend()
        compiled = backend.lower(after, target, options.backend_options)
        if verifier.check_backend(compiled.run, after.zeroed, "backend reference"):
            # Then it was a pass, which this level does not check.
            after, records = before, [_rolled_back(r, broken) for r in records]
            compiled = backend.lower(after, target, options.backend_options)
            broken = verifier.check_backend(compiled.run, after.zeroed, "backend reference")
            if broken:
                raise VerificationFailed(
                    f"the captured graph of {type(model).__name__} passed its check, and now breaks a gate even where "
                    f"the reference backend runs it: {broken}"
                )
    graph_report = GraphReport(
        tuple(f"{n.target}: {t.format(before.symbols)}" for n in before.inputs if (t := type_of(n)) is not None),
        len(before.calls()),
        len(after.calls()),
        records,
        verifier.records,
        [pair for record in records if record.status == "applied" for pair in verifier.errors(record.rewrites)],
        timer.measurements if timer is not None else [],
        backend.name,
        compiled.choices,
        clock.seconds(),
    )
    report.graphs.append(graph_report)
    report.notes += [n for n in dict.fromkeys((*verifier.doubts(after), *context.advice)) if n not in report.notes]
    frozen = after.constants.frozen_values()
    used = {name: tensor for name, tensor in before.constants.items() if name in frozen}
    guard, state = InputGuard.of(before, after.assumptions), ModelState(model, used)
    return CompiledCall(structure, guard, state, before, after, context, compiled, captured.out_spec, graph_report)


def _lower(backend: Backend, graph: Graph, target: Target, options: CompileOptions) -> Compiled:
    reasons = backend.unsupported(graph, target)
    if reasons:
        raise UnsupportedOp(
            f"backend {backend.name} cannot lower this graph for {target}:\n  " + "\n  ".join(reasons[:10])
        )
    return backend.lower(graph, target, options.backend_options)


def _rolled_back(record: PassRecord, reason: str) -> PassRecord:
    return replace(record, status="rolled back", reason=reason) if record.status == "applied" else record


class _Clock:
    """Adds up seconds by stage; a stage inside of another counts for itself only."""

    def __init__(self) -> None:
        self._stages: dict[str, float] = {}
        self._started = time.perf_counter()
        self._inside = [0.0]  # seconds of the stages inside of each one that is running

    @contextlib.contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        started = time.perf_counter()
        self._inside.append(0.0)
        try:
            yield
        finally:
            seconds = time.perf_counter() - started
            self._stages[stage] = self._stages.get(stage, 0.0) + seconds - self._inside.pop()
            self._inside[-1] += seconds

    def seconds(self) -> dict[str, float]:
        """Seconds by stage, and in total."""
        return {**self._stages, "total": time.perf_counter() - self._started}
