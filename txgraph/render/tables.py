"""What the report says, as tables of the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from txgraph.lossy import Spending
from txgraph.render.budget import charts
from txgraph.render.drawing import Stages
from txgraph.report import GraphReport

Cell = str | int | float


@dataclass(frozen=True)
class Table:
    """Rows under a title; without columns, lines of text.

    Attributes:
        open: whether it is shown at first. pictures: SVG elements above the rows.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""
    open: bool = False
    pictures: Sequence[str] = ()


def tables(stages: Stages) -> list[Table]:
    """Those that have a row."""
    found = [_near_misses(stages), _kernels(stages)]
    if stages.report is not None:
        report = stages.report
        found = [_passes(report), _verification(report), _ledger(report), *found, _choices(report), _seconds(report)]
        if report.spending is not None:
            found.insert(0, _budget(report.spending))
    found.append(_benchmark(stages))
    found.append(Table("Report", (), [[line] for line in stages.text.splitlines()]))
    return [table for table in found if table.rows or table.pictures]


def _budget(spending: Spending) -> Table:
    rows: list[list[Cell]] = [
        [
            each.module,
            each.method,
            round(each.before * 1e6),
            round(each.after * 1e6),
            f"{each.error:.1e}",
            f"{each.share:.1%}",
        ]
        for each in spending.spent
    ]
    said = [
        f"{spending.budget}: {spending.used:.0%} of it used",
        f"on {spending.calls[1]} calls held out: {spending.held_out}",
        f"on {spending.calls[0]} calls that chose: {spending.chosen_by}",
        *([f"not further: {spending.stopped}"] if spending.stopped else []),
        *spending.notes,
    ]
    columns = ("module", "method", "µs before", "µs after", "error alone", "share of the squared error")
    return Table("Budget", columns, rows, "; ".join(said), open=True, pictures=charts(spending))


def _passes(report: GraphReport) -> Table:
    rows: list[list[Cell]] = [[p.name, p.status, len(p.rewrites), round(p.seconds, 3), p.reason] for p in report.passes]
    left_out = [f"{p.name} left out %{root}: {reason}" for p in report.passes for root, reason in p.vetoed.items()]
    return Table("Passes", ("pass", "status", "rewrites", "seconds", "reason"), rows, "; ".join(left_out), open=True)


def _verification(report: GraphReport) -> Table:
    rows = [
        [
            record.stage,
            "pass" if record.passed else "FAIL",
            record.error or ", ".join(f"{g.gate} {g.actual:.1e} of {g.bound:.1e}" for g in record.gates),
        ]
        for record in report.verification
    ]
    note = "Each stage was run on the example inputs; its error may be about that of eager, both against float64."
    return Table("Verification", ("stage", "verdict", "gates: error of bound"), rows, note)


def _ledger(report: GraphReport) -> Table:
    rows = [
        [r.rule, f"%{r.root}", r.module, r.location, f"{e.before:.1e}", f"{e.after:.1e}", f"{e.change:.1e}"]
        for r, e in report.errors
        if e is not None
    ]
    columns = ("pass", "node", "module", "source", "error before", "error after", "change of the outputs")
    return Table("Ledger", columns, rows, "What each rewrite did to the numbers where it was made.")


def _near_misses(stages: Stages) -> Table:
    rows = [[m.rule, f"%{m.root}", m.module, m.location, m.reason] for m in stages.misses()]
    note = "Where a pass nearly rewrote, and the first condition that failed; the nearest of each pass."
    return Table("Near misses", ("pass", "node", "module", "source", "reason"), rows, note)


def _kernels(stages: Stages) -> Table:
    profile = stages.profile
    rows: list[list[Cell]] = []
    for at, kernel in enumerate(stages.kernels):
        ms: Cell = "" if profile is None else round(profile.launches[at].seconds * 1e3, 4)
        rows.append([kernel.name, kernel.kind, ms, len(kernel.nodes), ", ".join(kernel.nodes)])
    note = "In the order of their launch"
    if profile is None:
        note += "; fast.render(..., profile=fast.profile(...)) shows what each takes."
    return Table("Kernels", ("kernel", "kind", "ms", "operators", "nodes"), rows, note)


def _benchmark(stages: Stages) -> Table:
    rows: list[list[Cell]] = []
    for row in stages.benchmark.get("rows", ()):
        for name, entry in row["competitors"].items():
            if entry["failed"]:
                rows.append([row["row"], name, "failed"])
                continue
            ratios = (entry["times_faster"].get(baseline) for baseline in ("eager", "best peer"))
            times = [round(ratio["median_of_rounds"], 2) if ratio else "" for ratio in ratios]
            error = "wrong" if entry["error"]["wrong"] else f"{entry['error']['relative']:.1e}"
            ms, cold = round(entry["median_seconds"] * 1e3, 3), round(entry["cold_seconds"], 1)
            rows.append([row["row"], name, ms, *times, error, cold])
    columns = ("row", "competitor", "median ms", "times eager", "times best peer", "error", "cold s")
    note = f"Taking turns, a process each, on {stages.benchmark.get('hardware', 'this machine')}."
    return Table("Benchmark", columns, rows, note, open=True)


def _choices(report: GraphReport) -> Table:
    return Table("Choices of the backend", ("what", "chosen"), [[k, v] for k, v in report.choices.items()])


def _seconds(report: GraphReport) -> Table:
    return Table("Seconds", ("stage", "s"), [[stage, round(s, 2)] for stage, s in report.seconds.items()])
