"""What was done, checked and decided: text for people, plain data for programs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from io import StringIO
from itertools import groupby
from typing import Any

from rich.console import Console
from rich.table import Table

from txgraph.cost import Measurement
from txgraph.lossy import Spending
from txgraph.pipeline import PassRecord
from txgraph.profile import Profile
from txgraph.rewrite import Rewrite
from txgraph.verify import Ledger, LedgerEntry, LocalError, StageRecord


@dataclass
class GraphReport:
    """One compiled graph of a model.

    Attributes:
        inputs: names and types of its inputs, such as ``input_ids: i64[B, S]``.
        nodes_before, nodes_after: operator nodes.
        passes: in the order they ran. verification: the stages that were judged.
        errors: each applied rewrite, with its numeric error where that was measured.
        measurements: kinds of rewrites that were measured.
        backend: what lowered it. choices: what the backend decided by measurement.
        seconds: by stage: load, capture, passes, measure, compress, verify, lower, total.
        cached: where it was taken from, if another process had compiled it; what the passes did, they did there.
        profile: of the example inputs, with ``optimize(..., profile=True)``.
        spending: of the budget, if there was one.
    """

    inputs: tuple[str, ...]
    nodes_before: int = 0
    nodes_after: int = 0
    passes: list[PassRecord] = field(default_factory=list)
    verification: list[StageRecord] = field(default_factory=list)
    errors: list[tuple[Rewrite, LocalError | None]] = field(default_factory=list)
    measurements: list[Measurement] = field(default_factory=list)
    backend: str = ""
    choices: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    cached: str = ""
    profile: Profile | None = None
    spending: Spending | None = None


@dataclass(frozen=True)
class Fallback:
    """Something that runs slower than asked, and why."""

    what: str
    reason: str


@dataclass
class Report:
    """The report of an optimized model; grows with every graph that is compiled.

    Attributes:
        model: class name. verify: the level that was asked for.
        graphs: one for each compiled graph. fallbacks: whatever runs slower than asked.
        notes: events worth knowing, such as a recompilation after a weight change.
    """

    model: str
    backend: str
    verify: str
    graphs: list[GraphReport] = field(default_factory=list)
    fallbacks: list[Fallback] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def budget(self) -> Spending | None:
        """How the budget was spent on the latest graph; ``None`` without a budget."""
        return next((graph.spending for graph in reversed(self.graphs) if graph.spending is not None), None)

    @property
    def ledger(self) -> Ledger:
        """Every applied rewrite with what it did to the numbers; these are measured with ``verify="rewrites"``."""
        return Ledger.of(graph.errors for graph in self.graphs)

    def blame(self, n: int = 5) -> list[LedgerEntry]:
        """The ``n`` rewrites that change the outputs most, the largest first.

        Raises:
            ValueError: no rewrite was measured.
        """
        if not self.ledger.measured:
            raise ValueError(
                f"the model was verified by {self.verify!r}: rewrites are measured one by one with "
                f'optimize(..., verify="rewrites")'
            )
        return self.ledger.worst(n)

    def to_dict(self) -> dict[str, Any]:
        """The report as plain data (dicts, lists, strings, numbers).

        Keys: ``model``, ``backend``, ``verify``, ``graphs``, ``passes``, ``rewrites``, ``ledger``,
        ``verification``, ``measurements``, ``fallbacks``, ``notes``, ``seconds``. Entries of passes, rewrites and
        verification carry the index of their graph.
        """
        return {
            "model": self.model,
            "backend": self.backend,
            "verify": self.verify,
            "graphs": [
                {
                    "inputs": list(g.inputs),
                    "nodes_before": g.nodes_before,
                    "nodes_after": g.nodes_after,
                    "backend": g.backend,
                    "choices": g.choices,
                    "seconds": g.seconds,
                    "cached": g.cached,
                    "profile": None if g.profile is None else g.profile.to_dict(),
                    "budget": None if g.spending is None else g.spending.to_dict(),
                }
                for g in self.graphs
            ],
            "passes": [
                {
                    "graph": at,
                    "name": p.name,
                    "status": p.status,
                    "rewrites": len(p.rewrites),
                    "seconds": p.seconds,
                    "reason": p.reason,
                    "left_out": dict(p.vetoed),
                }
                for at, g in enumerate(self.graphs)
                for p in g.passes
            ],
            "rewrites": [
                {"graph": at, "status": p.status, **_plain(asdict(r))}
                for at, g in enumerate(self.graphs)
                for p in g.passes
                for r in p.rewrites
            ],
            "ledger": self.ledger.to_dict(),
            "verification": [
                {"graph": at, "passed": v.passed, **_plain(asdict(v))}
                for at, g in enumerate(self.graphs)
                for v in g.verification
            ],
            "measurements": [
                {"graph": at, "pays": m.pays, **asdict(m)} for at, g in enumerate(self.graphs) for m in g.measurements
            ],
            "fallbacks": [asdict(f) for f in self.fallbacks],
            "notes": list(self.notes),
            "seconds": {
                stage: sum(g.seconds.get(stage, 0.0) for g in self.graphs)
                for stage in ("load", "capture", "passes", "measure", "compress", "verify", "lower", "total")
            },
        }

    def __str__(self) -> str:
        text = StringIO()
        console = Console(file=text, width=118, no_color=True, highlight=False)
        console.print(f"{self.model}: {len(self.graphs)} graph(s), backend {self.backend}, verify {self.verify}")
        for at, graph in enumerate(self.graphs):
            _print_graph(console, at, graph)
        console.print(f"fallbacks: {len(self.fallbacks)}")
        for fallback in self.fallbacks:
            console.print(f"  {fallback.what}: {fallback.reason}", markup=False)
        for note in self.notes:
            console.print(f"note: {note}", markup=False)
        return text.getvalue().rstrip()

    __repr__ = __str__


def _print_graph(console: Console, at: int, graph: GraphReport) -> None:
    seconds = ", ".join(f"{stage} {value:.2f} s" for stage, value in graph.seconds.items())
    console.print(f"\ngraph {at}: {', '.join(graph.inputs)}", markup=False)
    console.print(f"  {graph.nodes_before} -> {graph.nodes_after} operators; {seconds}")
    if graph.cached:
        console.print(f"  compiled before, kept in {graph.cached}", markup=False, soft_wrap=True)
    # In the order in which the stages ran; of a pass that was judged again, without a rewrite, the last.
    checked = iter([[*again][-1] for _, again in groupby(graph.verification, key=lambda record: record.stage)])
    table = Table("stage", "status", "rewrites", "seconds", "gates (error / bound)", box=None, pad_edge=True)
    per_pass = any(v.stage not in ("capture", "backend", "backend reference") for v in graph.verification)
    if graph.verification:
        table.add_row("capture", "", "", "", _gates(next(checked)))
    for record in (r for r in graph.passes if r.status != "unchanged"):
        gates = f"under the budget: {record.lossy}" if record.lossy else _gates(next(checked) if per_pass else None)
        table.add_row(record.name, record.status, str(len(record.rewrites)), f"{record.seconds:.3f}", gates)
    lower = f"{graph.seconds.get('lower', 0):.3f}"
    stages: list[StageRecord | None] = [*checked]
    for stage in stages or [None]:
        broke = stage is not None and not stage.passed
        name = graph.backend if stage is None or stage.stage == "backend reference" or not broke else "tried"
        if stage is not None and stage.stage == "cache":
            table.add_row("taken from the cache", "", "", f"{graph.seconds['load']:.3f}", _gates(stage))
        else:
            table.add_row(f"backend {name}", "replaced" if broke else "", "", lower, _gates(stage))
    console.print(table)
    for record in graph.passes:
        for root, reason in record.vetoed.items():
            console.print(f"  {record.name} left out %{root}: {reason}", markup=False)
    unchanged = [p.name for p in graph.passes if p.status == "unchanged"]
    if unchanged:
        console.print(f"  unchanged: {', '.join(unchanged)}")
    for m in graph.measurements:
        kept = "kept" if m.pays else "left out"
        console.print(f"  {m.rule} at %{m.root} (x{m.places}): {m}, {kept}", markup=False)
    for what, choice in graph.choices.items():
        console.print(f"  {what}: {choice}", markup=False)
    if graph.spending is not None:
        console.print(f"\n{graph.spending}", markup=False)
    if graph.profile is not None:
        console.print(f"\n{graph.profile}", markup=False)


def _gates(record: StageRecord | None) -> str:
    if record is None:
        return "not checked"
    if record.error:
        return record.error
    verdict = "pass" if record.passed else "FAIL"
    return f"{verdict}  " + "  ".join(
        f"{g.gate} {g.actual:.1e}/{g.bound:.1e}" for g in record.gates if g.gate in ("G2", "G3") or not g.passed
    )


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, str):
        return [_plain(v) for v in value]
    return value
