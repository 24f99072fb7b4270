"""Optimize random models and compare them with eager: ``python -m tests.fuzz --graphs 5000 --seed 0``.

Each model is judged apart from the product's own verification, on inputs it was not compiled with. Each one that
fails is made as small as it can be, and the source of what is left is printed. With ``--pairs`` each model is compared
with another form of itself, too. The same seed gives the same models, however many processes work on them.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from tests.fuzz.work import outcomes
from txgraph.fuzz import Outcome
from txgraph.fuzz.run import KINDS

_MEANINGS = {
    "pass": "every answer is as good as eager's, and nothing was taken back",
    "rounding": "right; something was taken back that one rounding of the inputs explains",
    "caught": "right; the product found one of its passes, or the backend, to be wrong",
    "refused": "a clear error instead of an answer",
    "wrong": "an answer differs from eager's, or an error says nothing clear",
    "invalid": "the model itself does not run: a mistake of the generator",
}


def main(given: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--graphs", type=int, default=200, help="how many models")
    parser.add_argument("--seed", type=int, default=0, help="number of the first one")
    parser.add_argument("--backend", default="reference", choices=("reference", "inductor"))
    parser.add_argument("--pairs", action="store_true", help="compare with another form of each model, too")
    parser.add_argument("--jobs", type=int, default=1, help="processes, of one thread each")
    parser.add_argument("--no-shrink", action="store_true", help="do not make failing models smaller")
    parser.add_argument("--write", type=Path, help="a Markdown file for the table and what was found")
    args = parser.parse_args(given)
    console = Console()
    counts: Counter[str] = Counter()
    found: list[Outcome] = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("models", total=args.graphs)
        for outcome in outcomes(args.graphs, args.seed, args.backend, args.pairs, not args.no_shrink, args.jobs):
            counts[outcome.kind] += 1
            if outcome.kind != "pass":
                found.append(outcome)
            text = ", ".join(f"{counts[kind]} {kind}" for kind in KINDS if counts[kind])
            progress.update(task, advance=1, description=text)
    table = Table("outcome", "models", "meaning")
    for kind in KINDS:
        table.add_row(kind, str(counts[kind]), _MEANINGS[kind])
    console.print(table)
    for outcome in found:
        console.rule(f"{outcome.kind} {outcome.recipe.seed}: {outcome.signature}")
        console.print(outcome.detail, markup=False, highlight=False, soft_wrap=True)
        if outcome.minimal is not None:
            console.print(outcome.minimal.source(args.backend), markup=False, highlight=False, soft_wrap=True)
    if args.write is not None:
        args.write.write_text(as_markdown(counts, found, args.backend), encoding="utf-8")
    return int(any(outcome.is_bug for outcome in found))


def as_markdown(counts: Counter[str], found: Iterable[Outcome], backend: str) -> str:
    """The table, and what was found with its minimal source."""
    lines = ["| outcome | models | meaning |", "|---|---|---|"]
    lines += [f"| {kind} | {counts[kind]} | {_MEANINGS[kind]} |" for kind in KINDS]
    for outcome in found:
        lines += ["", f"## {outcome.kind} {outcome.recipe.seed}", "", "```", outcome.detail, "```"]
        if outcome.minimal is not None:
            lines += ["", "```python no-run", outcome.minimal.source(backend).rstrip(), "```"]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    raise SystemExit(main())
