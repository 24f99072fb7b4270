"""The one road: capture -> pipeline -> lower -> verify, for one call of one model."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import nn

from txgraph.backends import Backend, Compiled, choose_backend
from txgraph.backends.cuda_graphs import Recorder, recorder_for, with_cuda_graphs
from txgraph.backends.reference import ReferenceBackend
from txgraph.capture import InputGuard, ModelState, capture
from txgraph.compiled_call import CompiledCall, ExampleCall, frozen_tensors
from txgraph.compression import Compression
from txgraph.cost import CostModel, hardware_of
from txgraph.errors import BackendFailed, UnsupportedOp, VerificationFailed
from txgraph.ir import Graph, type_of
from txgraph.ir.padding import masks_of
from txgraph.measure import RewriteTimer
from txgraph.memory import give_back
from txgraph.options import CompileOptions, Target
from txgraph.pipeline import PassRecord, PassResult, Pipeline
from txgraph.progress import say
from txgraph.report import Fallback, GraphReport, Report
from txgraph.rewrite import PassContext
from txgraph.verify import Verifier
from txgraph.warm_start import WarmStart

log = logging.getLogger(__name__)


def compile_call(
    call: ExampleCall,
    pipeline: Pipeline,
    options: CompileOptions,
    report: Report,
    compression: Compression | None = None,
) -> CompiledCall:
    """Go down the whole road for one call, or take what another process made; ``report`` is told what was done.

    Raises:
        CaptureFailed, PassFailed, UnsupportedOp, BackendFailed, VerificationFailed: see :mod:`txgraph.errors`.
        NotImplementedError: the target is not where the weights are, and this machine has such a device.
        ValueError: it has none, and something was asked for that needs one; or CUDA graphs were, elsewhere.
    """
    backend = choose_backend(options.backend)
    target = _target(options, call.model, backend)
    options = replace(options, target=target)
    recorder = recorder_for(target) if options.backend_options.cuda_graphs else None
    compilation = _Compilation(call, pipeline.exact, options, report, target, backend, compression, recorder)
    compilation.backend.prepare(call.model.parameters(), compilation.target)
    with compilation.clock("load"):
        warm = WarmStart.of(call, compilation.backend, pipeline, options)
    compiled = compilation.take_kept(warm)
    if compiled is None:
        compiled = compilation.make()
        if compiled.report.backend == compilation.backend.name:
            warm.keep(compiled)
    give_back()
    return compiled


@dataclass(frozen=True)
class _Compilation:
    """One call on its way to a compiled graph."""

    call: ExampleCall
    pipeline: Pipeline
    options: CompileOptions
    report: Report
    target: Target
    backend: Backend
    compression: Compression | None = None
    recorder: Recorder | None = None
    clock: _Clock = field(default_factory=lambda: _Clock())

    def take_kept(self, warm: WarmStart) -> CompiledCall | None:
        """What was kept for such a call, and passes its check on this one."""
        call = self.call
        for folder, kept in warm.fitting(call.tensors):
            verifier = Verifier(self.options.verify, call.model, call.args, call.kwargs, call.tensors)
            try:
                with self.clock("load"):
                    compiled = self._recorded(self.backend.restore(kept.compiled), kept.after)
            except BackendFailed as error:
                log.warning("%s is compiled anew: %s", type(call.model).__name__, error)
                continue
            with self.clock("verify", "what was kept"):
                verifier.refer(kept.before)
                if kept.report.spending is not None:
                    verifier.rebase(kept.after)
                broken = verifier.check_backend(compiled.run, kept.after.zeroed, "cache")
            if broken:
                self.report.notes.append(
                    f"compiled anew: what was kept in {folder} broke a gate on this call: {broken}"
                )
                continue
            context = self._context(kept.before, kept.vetoes)
            graph_report = replace(
                kept.report,
                verification=[*kept.report.verification, *verifier.records],
                seconds=self.clock.seconds(),
                cached=str(folder),
            )
            _tell(self.report, graph_report, kept.notes, compiled)
            state = ModelState(call.model, {name: kept.before.constants[name] for name in kept.frozen})
            before, after, out_spec = kept.before, kept.after, kept.out_spec
            return CompiledCall(
                call.structure, kept.guard, state, before, after, context, compiled, out_spec, graph_report, kept.notes
            )
        return None

    def make(self) -> CompiledCall:
        """Capture, rewrite, lower and verify."""
        call, options, target, clock, backend = self.call, self.options, self.target, self.clock, self.backend
        with clock("capture"):
            captured = capture(call.model, call.args, call.kwargs, call.dynamic_shapes)
        before = captured.graph
        verifier = Verifier(options.verify, call.model, call.args, call.kwargs, call.tensors)
        with clock("verify", "capture"):
            verifier.check_capture(before)
        # Many parts are timed: one backend compiles each of them.
        single = choose_backend("inductor") if options.backend == "auto" else backend
        timer = RewriteTimer(single, target, options.backend_options) if options.measure == "rewrites" else None
        context = self._context(before)

        def between_passes(result: PassResult) -> str | Mapping[str, str]:
            if timer is not None:
                with clock("measure", result.each.name):
                    slower = timer.slower(result)
                if slower:
                    return slower
            with clock("verify", result.each.name):
                return verifier.between_passes(result)

        with clock("passes"):
            after, records = self.pipeline.run(before, context, between_passes)
        vetoes = {(record.name, root): reason for record in records for root, reason in record.vetoed.items()}
        context = replace(context, vetoes=vetoes)
        if self.compression is not None and options.verify == "final":  # what is lossy must stand on what is exact
            with clock("verify", "passes"):
                broken = verifier.check_graph("passes", after)
            if broken:
                after, records = before, [_rolled_back(r, broken) for r in records]
        verifier.forget_values()
        exact, spending, most = (after, records), None, None
        while True:
            if self.compression is not None:
                with clock("compress"):
                    after, spent, spending = self.compression.spend(
                        exact[0], context, single, target, options.backend_options, most
                    )
                records = [*exact[1], *spent]
                after.constants.observe(before.constants)  # the budget was kept with these values
                with clock("verify", "what it is compared with"):
                    verifier.rebase(after)
            with clock("lower"):
                plain = _lower(backend, after, target, options)
                compiled = self._recorded(plain, after)
            with clock("verify", f"backend {backend.name}"):
                broken = verifier.check_backend(compiled.run, after.zeroed)
                if broken and compiled.run is not plain.run:
                    self._replays_slower(f"what it recorded broke a gate, the program runs as it is: {broken}")
                    compiled = plain
                    broken = verifier.check_backend(compiled.run, after.zeroed)
            guard = InputGuard.of(before, after.assumptions)
            if self.compression is None or spending is None:
                break
            with clock("compress", "the compiled graph on calls held out"):
                spending, kept = self.compression.confirm(spending, compiled.run, call.structure, guard.accepts)
            if kept or not spending.at:
                break
            most = spending.at - 1
        if broken:
            self.report.fallbacks.append(
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
                        f"the captured graph of {type(call.model).__name__} passed its check, and now breaks a "
                        f"gate even where the reference backend runs it: {broken}"
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
            spending=spending,
        )
        doubts = verifier.doubts(after) if spending is None else ()  # of rounding to few bits little is to be said
        notes = tuple(dict.fromkeys((*doubts, *context.advice)))
        _tell(self.report, graph_report, notes, compiled)
        state = ModelState(call.model, frozen_tensors(before, after, compiled))
        return CompiledCall(
            call.structure, guard, state, before, after, context, compiled, captured.out_spec, graph_report, notes
        )

    def _recorded(self, compiled: Compiled, graph: Graph) -> Compiled:
        """As it will run: as a CUDA graph, where that was asked for."""
        mode = self.options.backend_options.cuda_graphs
        if not mode:
            return compiled
        return with_cuda_graphs(compiled, graph, self.recorder, mode != "overwrite", self._replays_slower)

    def _replays_slower(self, reason: str) -> None:
        """Tell the report of what runs without a CUDA graph, now or in a later call."""
        self.report.fallbacks.append(Fallback("CUDA graphs", reason))

    def _context(self, before: Graph, vetoes: Mapping[tuple[str, str], str] | None = None) -> PassContext:
        """What the passes know of the call, the machine and the backend."""
        cost = CostModel(
            self.options.backend_options.hardware or hardware_of(self.target), self.backend.fuses_elementwise
        )
        masks = masks_of(before, self.call.tensors)
        weighs = self.options.measure == "off"
        return PassContext(self.target, self.backend.fused_activations(self.target), cost, weighs, vetoes or {}, masks)


def _target(options: CompileOptions, model: nn.Module, backend: Backend) -> Target:
    """The one that was asked for, where the weights are or absent; by default where the weights are."""
    device = next((t.device for t in [*model.parameters(), *model.buffers()]), torch.device("cpu"))
    target = options.target or Target.of(device)
    if target.kind == device.type:
        return target
    if not target.is_absent or device.type != "cpu":
        raise NotImplementedError(
            f"the weights are on {device} and the target is {target}. Move the model first: model.to({target.kind!r})."
        )
    for name, value in (("verify", options.verify), ("measure", options.measure)):
        if value != "off":
            raise ValueError(
                f"{name}={value!r} runs what is compiled, and this machine has no {target}: "
                f'to compile without running anything, pass {name}="off"'
            )
    reason = backend.obstacle(target)
    if reason:
        raise BackendFailed(f"backend {backend.name} cannot compile for {target}, which this machine has not: {reason}")
    return target


def _tell(report: Report, graph_report: GraphReport, notes: Sequence[str], compiled: Compiled) -> None:
    report.graphs.append(graph_report)
    report.fallbacks += [Fallback(f"backend {graph_report.backend}", reason) for reason in compiled.fallbacks]
    report.notes += [note for note in notes if note not in report.notes]


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
    """Says each stage as it begins, and adds up seconds; a stage inside of another counts for itself only."""

    def __init__(self) -> None:
        self._stages: dict[str, float] = {}
        self._started = time.perf_counter()
        self._inside = [0.0]  # seconds of the stages inside of each one that is running
        self._running = [""]

    @contextlib.contextmanager
    def __call__(self, stage: str, what: str = "") -> Iterator[None]:
        started = time.perf_counter()
        self._inside.append(0.0)
        self._running.append(stage)
        say(stage, what)
        try:
            yield
        finally:
            seconds = time.perf_counter() - started
            self._stages[stage] = self._stages.get(stage, 0.0) + seconds - self._inside.pop()
            self._inside[-1] += seconds
            self._running.pop()
            say(self._running[-1])

    def seconds(self) -> dict[str, float]:
        """Seconds by stage, and in total."""
        return {**self._stages, "total": time.perf_counter() - self._started}
