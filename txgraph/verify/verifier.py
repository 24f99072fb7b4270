"""Checks each stage of the road by the gates: the capture, every pass, the compiled result."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from txgraph.errors import VerificationFailed
from txgraph.ir import Graph, interpret
from txgraph.ir.padding import ZeroedOutput, with_zeros
from txgraph.options import VerifyLevel
from txgraph.pipeline import PassResult
from txgraph.rewrite import Rewrite
from txgraph.verify.blame import culprit
from txgraph.verify.gates import GateResult, Gates, check_gates, check_memory, distances, shared_inputs
from txgraph.verify.local_error import LocalError, measure_rewrites
from txgraph.verify.memo import Memo
from txgraph.verify.oracle import Reference, check_repeats, in_float64, model_tensors, reference
from txgraph.verify.ties import WithoutRounding, with_ties_turned

Run = Callable[[Sequence[torch.Tensor]], Sequence[Any]]
MOST_CULPRITS = 3  # of one pass; one with more wrong rewrites is wrong


@dataclass(frozen=True)
class StageRecord:
    """The gates on one stage.

    Attributes:
        stage: ``"capture"``, the name of a pass, ``"backend"``, ``"backend reference"`` where the backend's result
            broke a gate and the graph is interpreted instead, or ``"cache"`` for a result that was kept.
        gates: for each gate, its result on the worst output leaf.
        seconds: time of the check.
        error: what running the stage raised, where it did.
    """

    stage: str
    gates: tuple[GateResult, ...]
    seconds: float
    error: str = ""

    @property
    def passed(self) -> bool:
        """Whether every gate holds on every output leaf."""
        return not self.error and all(g.passed for g in self.gates)

    @property
    def reason(self) -> str:
        """The gates that broke, with both numbers; an empty text if none did."""
        return self.error or "; ".join(str(g) for g in self.gates if not g.passed)


@dataclass
class Verifier:
    """Holds the references of one call and judges every stage by them.

    Attributes:
        level: ``"off"``: nothing is checked; ``"final"``: the capture and the compiled result;
            ``"passes"``: each pass that changed something, too; ``"rewrites"``: each rewrite by itself, too.
        records: the stages judged so far. seconds: of the references themselves.
    """

    level: VerifyLevel
    model: nn.Module
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    tensors: Sequence[torch.Tensor]
    records: list[StageRecord] = field(default_factory=list)
    seconds: float = 0.0
    _reference: Reference | None = None
    _written: int = 0
    _names: Sequence[str] = ()
    _smooth: Reference | None = None  # without rounding, where the model rounds
    _gates: dict[tuple[object, ...], Gates] = field(default_factory=dict)
    _measured: dict[int, dict[Rewrite, LocalError]] = field(default_factory=dict)
    _memo: Memo | None = None  # while passes are checked

    def check_capture(self, graph: Graph) -> None:
        """Make the references and judge the captured graph by them.

        Raises:
            VerificationFailed: the captured graph is not the model.
        """
        if self.level == "off":
            return
        self.refer(graph)
        weights = model_tensors(self.model)
        on_cpu = all(tensor.device.type == "cpu" for tensor in (*weights, *self.tensors))
        if on_cpu and not torch.is_inference_mode_enabled():  # a GPU is faster than the looking up; versions are needed
            self._memo = Memo(limit=sum(tensor.nbytes for tensor in weights) // 2)
        record, values = self._check("capture", graph, ())
        self.records.append(record)
        if not record.passed:
            raise VerificationFailed(
                f"the captured graph of {type(self.model).__name__} does not reproduce eager: {record.reason}. "
                f"Its forward() probably depends on Python state or random numbers that a graph cannot hold."
            )
        assert self._reference is not None
        eager = self._reference.eager
        if any(not gate.passed for gate in check_gates(values, eager, eager)):
            # Within the gates, but no repetition of eager, which a run of the same operators nearly always is.
            check_repeats(self.model, self.args, self.kwargs, self._reference)

    def refer(self, graph: Graph) -> None:
        """Run the model that ``graph`` was captured from in eager and in float64."""
        if self.level == "off":
            return
        started = time.perf_counter()
        names = [n.name for n in graph.inputs]
        buffers = [graph.constants[m.target] for m in graph.mutations if m.kind == "buffer"]
        inputs = [names.index(m.target) for m in graph.mutations if m.kind == "input"]
        self._gates.clear()
        call = self.model, self.args, self.kwargs, self._buffers(buffers), inputs
        made, self._smooth = reference(*call), None
        self._reference = replace(made, turned=with_ties_turned(graph, self._inputs()))
        if self._reference.turned is not None:
            with WithoutRounding():
                self._smooth = reference(*call)
        self.seconds, self._written = time.perf_counter() - started, len(graph.mutations)
        self._names = [str(n.target) for n in graph.inputs]

    def rebase(self, graph: Graph) -> None:
        """Judge what follows by a graph that differs from the model on purpose: the graph itself, and in float64.

        What may share memory is still what eager shares.
        """
        if self.level == "off":
            return
        assert self._reference is not None, "check_capture comes first"
        eager, oracle = interpret(graph, self._inputs()), in_float64(graph, self._inputs())
        self._gates.clear()
        turned = with_ties_turned(graph, self._inputs())
        self._reference, self._smooth = replace(self._reference, eager=eager, oracle=oracle, turned=turned), None

    def between_passes(self, result: PassResult) -> str | dict[str, str]:
        """The pipeline's hook: an empty text, the rewrite to take out, or the reason to roll the pass back.

        A pass is rolled back as a whole if it has one rewrite, or has lost :data:`MOST_CULPRITS` already. To find a
        rewrite, the pass and the graph run again about log2 of the number of rewrites times.
        """
        if self.level not in ("passes", "rewrites"):
            return ""
        wrong = self._measure(result) if self.level == "rewrites" else {}
        if wrong:
            return wrong
        reason = self._judge(result.each.name, result.after, result.after.zeroed).reason
        broken = sum(record.stage == result.each.name and not record.passed for record in self.records)
        if not reason or len(result.rewrites) == 1 or broken > MOST_CULPRITS:
            return reason

        def breaks(left_out: Collection[Rewrite]) -> bool:
            trial = result.without(dict.fromkeys((r.root for r in left_out), "left out to find the one that is wrong"))
            return not self._check("trial", trial.after, trial.after.zeroed)[0].passed

        return {culprit(result.rewrites, breaks).root: reason}

    def forget_values(self) -> None:
        """Free what was kept to check graphs that differ little: the passes are done."""
        self._memo = None

    def doubts(self, graph: Graph) -> list[str]:
        """Where eager and float64 are too far apart for a verdict on the outputs of ``graph`` to mean much."""
        if self._reference is None:
            return []
        return [
            f"eager and float64 disagree on output {leaf} by {distance:.0%} (relative root mean square), more than "
            f"rounding does: the gates are as wide there, and prove little"
            for leaf, distance in distances(*self._expected(graph.zeroed)).items()
        ]

    def _gates_of(self, reference: Reference, zeros: Sequence[ZeroedOutput]) -> Gates:
        key = (id(reference), *zeros)
        if key not in self._gates:
            turned = None if reference.turned is None else self._zeroed(reference.turned, zeros)
            self._gates[key] = Gates(
                self._zeroed(reference.eager, zeros), self._zeroed(reference.oracle, zeros), turned
            )
        return self._gates[key]

    def _expected(self, zeros: Sequence[ZeroedOutput]) -> tuple[list[object], list[object]]:
        """Eager's and float64's outputs, with zeros where the contract says so."""
        assert self._reference is not None, "check_capture comes first"
        return self._zeroed(self._reference.eager, zeros), self._zeroed(self._reference.oracle, zeros)

    def _zeroed(self, outputs: Sequence[Any], zeros: Sequence[ZeroedOutput]) -> list[object]:
        return with_zeros(outputs, zeros, dict(zip(self._names, self.tensors, strict=True)))

    def errors(self, rewrites: Sequence[Rewrite]) -> list[tuple[Rewrite, LocalError | None]]:
        """Each of a pass's rewrites with its error, where that was measured."""
        measured = self._measured.get(id(rewrites), {})
        return [(rewrite, measured.get(rewrite)) for rewrite in rewrites]

    def _measure(self, result: PassResult) -> dict[str, str]:
        """Measure each rewrite by itself; the roots of those that break a gate, with the reasons."""
        measured = self._measured[id(result.rewrites)] = measure_rewrites(result, self._inputs)
        broken = ((rewrite.root, error.reason) for rewrite, error in measured.items() if error.reason)
        return {root: f"by itself: {reason}" for root, reason in broken}

    def check_backend(self, run: Run, zeros: Sequence[ZeroedOutput] = (), stage: str = "backend") -> str:
        """Judge what a graph with these zeros was compiled to; the reason to reject it, or an empty text."""
        if self.level == "off":
            return ""
        return self._judge(stage, run, zeros).reason

    def check_graph(self, stage: str, graph: Graph) -> str:
        """Judge a graph as eager runs it; the reason to reject it, or an empty text."""
        return self._judge(stage, graph, graph.zeroed).reason

    def _judge(self, stage: str, judged: Run | Graph, zeros: Sequence[ZeroedOutput] = ()) -> StageRecord:
        record, _ = self._check(stage, judged, zeros)
        self.records.append(record)
        return record

    def _check(
        self, stage: str, judged: Run | Graph, zeros: Sequence[ZeroedOutput]
    ) -> tuple[StageRecord, Sequence[Any]]:
        """Judge what is compiled, or a graph as eager runs it: without rounding, where there is any.

        Returns:
            The record, and the values that were judged.
        """
        assert self._reference is not None, "check_capture comes first"
        started = time.perf_counter()
        error, gates = "", []
        values: Sequence[Any] = ()
        reference = self._smooth if isinstance(judged, Graph) and self._smooth is not None else self._reference
        try:
            inputs = self._inputs()
            if not isinstance(judged, Graph):
                values = judged(inputs)
            elif self._smooth is not None:
                with WithoutRounding():
                    values = interpret(judged, inputs)
            else:
                values = interpret(judged, inputs) if self._memo is None else self._memo.interpret(judged, inputs)
            gates = self._gates_of(reference, zeros).check(values)
            shared = shared_inputs(values, [*inputs, *model_tensors(self.model)])
            shared[: self._written] = [frozenset()] * self._written  # these are copied to where they belong
            gates += check_memory(shared, self._reference.shared, inputs, self.tensors)
        except (RuntimeError, IndexError, TypeError, ValueError, AssertionError) as raised:
            # A stage that cannot run on the user's inputs has failed its check.
            error = f"running it raised {type(raised).__name__}: {raised}"
        return StageRecord(stage, _worst(gates), time.perf_counter() - started, error), values

    def _inputs(self) -> list[torch.Tensor]:
        """Fresh inputs for every run, contiguous as calls bring them, so that no run sees another's writes."""
        return [t.detach().clone(memory_format=torch.contiguous_format) for t in self.tensors]

    def _buffers(self, constants: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The model's own buffer objects behind the graph's constants (they share storage)."""
        own = {b.data_ptr(): b for b in self.model.buffers()}
        return [own[c.data_ptr()] for c in constants]


def _worst(gates: Sequence[GateResult]) -> tuple[GateResult, ...]:
    """For each gate, the output leaf that comes nearest to its bound, or exceeds it most."""
    worst: dict[str, GateResult] = {}
    for gate in gates:
        kept = worst.get(gate.gate)
        if kept is None or _pressure(gate) > _pressure(kept):
            worst[gate.gate] = gate
    return tuple(worst.values())


def _pressure(gate: GateResult) -> float:
    if not gate.passed and not gate.actual > gate.bound:
        return float("inf")  # NaN, or a structural difference
    return gate.actual / gate.bound if gate.bound > 0 else gate.actual
