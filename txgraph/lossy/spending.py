"""What became of a budget: what was asked, what each place costs and gains, what the whole does on held-out data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from io import StringIO
from typing import Any

from rich.console import Console
from rich.table import Table

from txgraph.lossy.budget import Budget
from txgraph.lossy.distance import Distance


@dataclass(frozen=True)
class Spent:
    """One place where the budget was spent.

    Attributes:
        module: its name in the model. method: what was done, with its settings.
        before, after: measured seconds of the place, over all its copies.
        error: ``||y - y'|| / ||y||`` at the outputs if this alone is done, on the calls that chose.
        share: its part of the squared errors of all.
    """

    module: str
    method: str
    before: float
    after: float
    error: float
    share: float


@dataclass(frozen=True)
class Point:
    """A place on the way from exact to fast.

    Attributes:
        steps: how many were made. seconds: of all places together, as measured one by one.
        predicted: relative error, from the errors of the places. measured: of the whole, on the calls that chose.
    """

    steps: int
    seconds: float
    predicted: float
    measured: float | None = None


@dataclass(frozen=True)
class Spending:
    """How a budget was spent on one graph.

    Attributes:
        budget: what was asked. used: the share of it that the held-out calls use.
        chosen_by, held_out: how far the outputs are from float64, on the calls that chose, and on those held out.
        calls: numbers of these calls. score, reference: of the metric, if there is one, and of the model itself.
        spent: the places. path: the states that the search could choose from; ``at`` is how far it went.
        stopped: why it did not go further. seconds: of the search. notes: what was left out, and why.
    """

    budget: Budget
    used: float
    chosen_by: Distance
    held_out: Distance
    calls: tuple[int, int]
    spent: tuple[Spent, ...] = ()
    path: tuple[Point, ...] = ()
    at: int = 0
    score: float | None = None
    reference: float | None = None
    stopped: str = ""
    seconds: float = 0.0
    notes: tuple[str, ...] = field(default=())

    @property
    def gained(self) -> float:
        """Measured seconds of the places before, over those after."""
        before, after = (sum(getattr(each, name) for each in self.spent) for name in ("before", "after"))
        return before / after if after else 1.0

    @property
    def methods(self) -> Mapping[str, int]:
        """How many places each method has."""
        counts: dict[str, int] = {}
        for each in self.spent:
            counts[each.method] = counts.get(each.method, 0) + 1
        return counts

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "limits": self.budget.limits,
            "used": self.used,
            "chosen_by": self.chosen_by.to_dict(),
            "held_out": self.held_out.to_dict(),
            "calls": {"chosen_by": self.calls[0], "held_out": self.calls[1]},
            "score": self.score,
            "reference": self.reference,
            "spent": [asdict(each) for each in self.spent],
            "path": [asdict(point) for point in self.path],
            "at": self.at,
            "stopped": self.stopped,
            "seconds": self.seconds,
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        text = StringIO()
        console = Console(file=text, width=118, no_color=True, highlight=False)
        done = ", ".join(f"{count} x {method}" for method, count in self.methods.items()) or "nothing"
        console.print(f"{self.budget}: {done}; {self.used:.0%} of it used", markup=False)
        console.print(f"  on {self.calls[1]} calls held out: {self.held_out}", markup=False)
        expected = f"{self.held_out.expected:.2e} is exceeded about one time in twenty"
        console.print(f"  on as many other samples: {expected}", markup=False)
        console.print(f"  on {self.calls[0]} calls that chose: {self.chosen_by}", markup=False)
        if self.score is not None and self.reference is not None:
            console.print(f"  metric: {self.score:.6g}, of the model itself {self.reference:.6g}", markup=False)
        if self.spent:
            table = Table("module", "method", "µs before", "after", "error alone", "share", box=None)
            for each in self.spent:
                times = (f"{seconds * 1e6:.0f}" for seconds in (each.before, each.after))
                table.add_row(each.module, each.method, *times, f"{each.error:.1e}", f"{each.share:.0%}")
            console.print(table)
        if self.stopped:
            console.print(f"  not further: {self.stopped}", markup=False)
        for note in self.notes:
            console.print(f"  {note}", markup=False)
        return text.getvalue().rstrip()
