"""The ledger: every applied rewrite with what it did to the numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from io import StringIO
from typing import Any

from rich.console import Console
from rich.table import Table

from txgraph.rewrite import Rewrite
from txgraph.verify.gates import GateResult
from txgraph.verify.local_error import LocalError


@dataclass(frozen=True)
class LedgerEntry:
    """One applied rewrite.

    Attributes:
        rewrite: pass, nodes, module and source line.
        error: of its region; rewrites that build on one another share one. ``None``: not measured.
        share: its part of what the rewrites of the graph changed at the outputs. Roundings are independent, so it is
            their squares that add up: ``change**2 / sum(change**2)``.
        graph: index of the compiled graph.
    """

    rewrite: Rewrite
    error: LocalError | None = None
    share: float | None = None
    graph: int = 0

    def __str__(self) -> str:
        numbers = "not measured"
        if self.error is not None and self.share is not None:
            numbers = f"changes the outputs by {self.error.change:.1e}, {self.share:.0%} of all changes"
        rewrite = self.rewrite
        where = " ".join(filter(None, (rewrite.module, f"({rewrite.location})" if rewrite.location else "")))
        return f"{rewrite.rule} at %{rewrite.root}{' in ' if where else ''}{where}: {numbers}"


@dataclass(frozen=True)
class Ledger:
    """All entries, in the order in which the rewrites were made; its text is a table of those that changed a bit."""

    entries: tuple[LedgerEntry, ...]

    @classmethod
    def of(cls, graphs: Iterable[Sequence[tuple[Rewrite, LocalError | None]]]) -> Ledger:
        """The ledger of the rewrites of each graph."""
        return cls(tuple(entry for at, measured in enumerate(graphs) for entry in _entries(measured, at)))

    def __iter__(self) -> Iterator[LedgerEntry]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def measured(self) -> list[LedgerEntry]:
        """The entries that have numbers."""
        return [entry for entry in self.entries if entry.error is not None]

    def worst(self, n: int) -> list[LedgerEntry]:
        """The ``n`` entries that change the outputs most, the largest first."""
        return sorted(self.measured, key=lambda entry: _change(entry), reverse=True)[:n]

    def to_dict(self) -> list[dict[str, Any]]:
        """The entries as plain data."""
        return [
            {
                "graph": entry.graph,
                "rule": entry.rewrite.rule,
                "root": entry.rewrite.root,
                "module": entry.rewrite.module,
                "location": entry.rewrite.location,
                "share": entry.share,
                "error": None if (error := entry.error) is None else {**asdict(error), "gates": _plain(error.gates)},
            }
            for entry in self.entries
        ]

    def __str__(self) -> str:
        text = StringIO()
        console = Console(file=text, width=150, no_color=True, highlight=False)
        table = Table("rewrite", "module", "line", "error before", "after", "exact", "change", "share", box=None)
        changed = [entry for entry in self.measured if _change(entry)]
        for entry in changed:
            rewrite, error = entry.rewrite, entry.error
            assert error is not None, "only measured entries"
            numbers = (f"{x:.1e}" for x in (error.before, error.after, error.exact, error.change))
            table.add_row(
                f"{rewrite.rule} %{rewrite.root}", rewrite.module, rewrite.location, *numbers, f"{entry.share:.0%}"
            )
        console.print(table)
        others = Counter(
            (entry.rewrite.rule, "not measured" if entry.error is None else "same outputs")
            for entry in self.entries
            if entry not in changed
        )
        for (rule, what), times in others.items():
            console.print(f"  {rule}: {times} x {what}")
        return text.getvalue().rstrip()


def _plain(gates: Sequence[GateResult]) -> list[dict[str, Any]]:
    return [asdict(gate) for gate in gates]


def _change(entry: LedgerEntry) -> float:
    return 0.0 if entry.error is None else entry.error.change


def _entries(measured: Sequence[tuple[Rewrite, LocalError | None]], graph: int) -> Iterator[LedgerEntry]:
    """The rewrites of one graph; those of one region share its part of the change."""
    members = Counter(id(error) for _, error in measured)
    squares = [0.0 if error is None else error.change**2 / members[id(error)] for _, error in measured]
    total = sum(squares)
    for (rewrite, error), square in zip(measured, squares, strict=True):
        share = None if error is None else square / total if total else 0.0
        yield LedgerEntry(rewrite, error, share, graph)
