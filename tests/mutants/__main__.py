"""Are all seeded faults caught, and by what: ``python -m tests.mutants --write docs/mutants.md``."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.mutants.catalogue import AREAS
from tests.mutants.mutant import Mutant, Outcome, control, judge

_INTRODUCTION = """\
# Mutants

Gates that cannot fail prove nothing. So the tests seed faults: a **mutant** is txgraph with one function replaced by a
subtly wrong one, together with a small model on which that function matters. This page says by what each is caught.

A mutant is killed

- by the **product**, when `optimize` with its default `verify="passes"` notices by itself: a gate
  ([verification.md](verification.md)) fails at the stage that is wrong, or an error is raised. Where a model comes back
  all the same, without the wrong rewrite or on the reference backend, its answers must be right, also for inputs that
  were not seen when it was compiled.
- by a **scenario**, where no check at compile time can see the fault: guards, weights that change later, values that
  are written back. The calls of the scenario are compared with eager by the same gates, and what must be refused or
  must not be compiled again is counted.

Each model and each scenario also runs without a mutant. Then nothing may be noticed, rolled back or refused, and all
answers must be right; else a kill means nothing. A mutant whose wrong function is never called, or that raises by
itself, is not killed.

What this does not show: the mutants are chosen by hand, so their number is no measure of how likely the gates are to
miss a fault that nobody thought of. What the gates are known not to see is said in
[verification.md](verification.md#what-it-does-not-see).

```bash
python -m tests.mutants                          # this table; exit status 1 if a mutant survives
python -m tests.mutants --write docs/mutants.md  # this page
pytest tests/test_mutants.py                     # the same as tests
```
"""


@dataclass(frozen=True)
class Verdict:
    """One mutant, and what became of it."""

    mutant: Mutant
    outcome: Outcome

    @property
    def text(self) -> str:
        """What caught it, or why it is not killed."""
        return self.outcome.caught_by if self.outcome.killed else f"SURVIVED: {self.outcome.problem}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Judge all mutants; the exit status is 1 if one survives."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the table as a page of Markdown")
    options = parser.parse_args(arguments)
    os.environ["TXGRAPH_CACHE"] = "0"  # what another process compiled has no mutant in it
    logging.disable(logging.WARNING)  # that a stage broke a gate is what is wanted
    warnings.simplefilter("ignore")
    verdicts = {area: [_verdict(mutant) for mutant in mutants] for area, mutants in AREAS.items()}
    every = [verdict for area in verdicts.values() for verdict in area]
    killed = sum(verdict.outcome.killed for verdict in every)
    console = Console()
    console.print(_table(verdicts))
    console.print(f"killed {killed} of {len(every)}")
    if options.write is not None:
        options.write.write_text(_page(verdicts, killed, len(every)))
    return 0 if killed == len(every) else 1


def _verdict(mutant: Mutant) -> Verdict:
    wrong = control(mutant.probe)
    return Verdict(mutant, Outcome("", f"without the mutant: {wrong[0]}") if wrong else judge(mutant))


def _table(verdicts: Mapping[str, Sequence[Verdict]]) -> Table:
    table = Table("mutant", "what is wrong", "caught by")
    for area in verdicts.values():
        for verdict in area:
            table.add_row(verdict.mutant.name, verdict.mutant.what, verdict.text)
        table.add_section()
    return table


def _page(verdicts: Mapping[str, Sequence[Verdict]], killed: int, of: int) -> str:
    lines = [_INTRODUCTION, f"Killed: {killed} of {of}."]
    for area, found in verdicts.items():
        lines += ["", f"## {area.capitalize()}", "", "| mutant | what is wrong | caught by |", "|---|---|---|"]
        lines += [f"| {v.mutant.name} | {v.mutant.what} | {_escaped(v.text)} |" for v in found]
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("_", "\\_").replace("*", "\\*")


if __name__ == "__main__":
    sys.exit(main())
