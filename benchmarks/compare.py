"""Speed, errors, cold compile seconds and memory of competitors, side by side on this machine.

    python -m benchmarks.compare --suite cpu
    python -m benchmarks.compare --rows bert-base-1x128 bert-base-8x128 --rounds 15 --threads 2
    python -m benchmarks.compare --list

How it measures is in :mod:`txgraph.bench`; here are its rows, and the results.

The result is written after each row; ``--resume`` keeps the rows that are there, and measures those that failed or
are missing.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.competitors import COMPETITORS, INSTALL
from benchmarks.rows import DEFAULT_ROWS, ROWS
from benchmarks.suites import SUITES
from benchmarks.table import print_row, print_summary, wide_console
from txgraph.bench import DEFAULT_COMPETITORS, Settings, WorkerFailed, compare_row, conditions, resolve
from txgraph.bench.summary import summarise_all
from txgraph.progress import Step, listen, say

RESULTS = Path(__file__).parent / "results"
Plan = Mapping[str, Sequence[str]]  # rows, each with its competitors


def compare(
    rows: Sequence[str],
    competitors: Sequence[str],
    settings: Settings,
) -> dict[str, Any]:
    """Run the comparison; the result is plain data, with every time that was measured.

    ``rows`` and ``competitors`` are known names, or ``"module:attribute"`` of a :class:`txgraph.bench.Row` and
    of a :class:`txgraph.bench.Competitor` class.
    """
    return compare_plan(dict.fromkeys(rows, competitors), settings)


def compare_plan(
    plan: Plan,
    settings: Settings,
    after_row: Callable[[dict[str, Any], dict[str, Any]], None] = lambda row, result: None,
    suite: str = "",
    earlier: Mapping[str, dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """As :func:`compare`, with competitors for each row; ``earlier`` rows are taken over.

    ``after_row`` gets each new row, and the result as far as it is complete. A row that fails in eager is in the
    result with its reason, and the others go on.

    Raises:
        ValueError: a name is unknown.
    """
    references = {
        row: (resolve(row, ROWS), {name: resolve(name, COMPETITORS) for name in competitors})
        for row, competitors in plan.items()
    }
    done = dict(earlier or {})
    order = [*ROWS, *plan]
    result = {**_conditions(settings, suite), "rows": [], "summary": {}}
    for row, competitors in plan.items():
        new = row not in done
        if new:
            say("row", row)
            try:
                measured = compare_row(*references[row], settings)
            except WorkerFailed as error:
                measured = {"row": row, "failed": str(error)}
            done[row] = {**measured, "asked": [row, *competitors]}
        result["rows"] = sorted(done.values(), key=lambda row: order.index(row["asked"][0]))
        result["summary"] = summarise_all(result["rows"])
        if new:
            after_row(done[row], result)
    return result


def read_earlier(path: Path, plan: Plan, settings: Settings, suite: str) -> dict[str, dict[str, Any]]:
    """The rows at ``path`` that are not to be measured: those that are complete, and those that are not in the plan.

    Raises:
        ValueError: they were measured under other conditions.
    """
    if not path.exists():
        return {}
    result = json.loads(path.read_text(encoding="utf-8"))
    for what, now in _conditions(settings, suite).items():
        if result[what] != now:
            raise ValueError(f"{path} cannot be resumed: its {what} are {result[what]}, now {now}")
    asked = {row: [row, *competitors] for row, competitors in plan.items()}
    rows = {row["asked"][0]: row for row in result["rows"]}
    return {
        name: row
        for name, row in rows.items()
        if name not in plan or (row["asked"] == asked[name] and not row["failed"])
    }


def _conditions(settings: Settings, suite: str) -> dict[str, Any]:
    return {"suite": suite, **conditions(settings)}


def _write(path: Path, result: dict[str, Any]) -> None:
    """In one step: whoever interrupts it keeps the earlier rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    unfinished.replace(path)


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    defaults = Settings()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=__doc__.split("\n")[0])
    parser.add_argument("--suite", choices=SUITES, help="many rows, each with its competitors")
    parser.add_argument("--rows", nargs="+", default=[], help="these only")
    parser.add_argument("--competitors", nargs="+", default=[], help="these only")
    parser.add_argument("--rounds", type=int, default=defaults.rounds)
    parser.add_argument("--threads", type=int, default=defaults.threads)
    parser.add_argument("--turn-seconds", type=float, default=defaults.turn_seconds)
    parser.add_argument("--warm-up-calls", type=int, default=defaults.warm_up_calls)
    parser.add_argument("--cold-limit", type=float, default=defaults.cold_limit, help="seconds; slower is failed")
    parser.add_argument("--name", help="the result is benchmarks/results/NAME.json; default: the suite's, or compare")
    parser.add_argument("--results", type=Path, default=RESULTS, help="another folder for the result")
    parser.add_argument("--resume", action="store_true", help="keep the rows that the result has")
    parser.add_argument("--list", action="store_true", help="list the suites, rows and competitors")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """The command line."""
    given = _arguments(arguments)
    console = wide_console()
    if given.list:
        for title, names in (("suites", SUITES), ("rows", ROWS), ("competitors", COMPETITORS)):
            console.print(f"{title}: {' '.join(names)}")
        return {}
    if given.suite:
        suite = SUITES[given.suite]
        if suite.device == "cuda" and not torch.cuda.is_available():
            raise SystemExit(f"suite {suite.name} needs an NVIDIA GPU that torch can use, and there is none here")
        plan: Plan = suite.select(given.rows, given.competitors)
    else:
        competitors = given.competitors or DEFAULT_COMPETITORS
        plan = {row: tuple(competitors) for row in given.rows or DEFAULT_ROWS}
    settings = Settings(given.rounds, given.threads, given.turn_seconds, given.warm_up_calls, given.cold_limit)
    path = given.results / f"{given.name or given.suite or 'compare'}.json"
    earlier = read_earlier(path, plan, settings, given.suite or "") if given.resume else {}

    def after_row(row: dict[str, Any], result: dict[str, Any]) -> None:
        print_row(row, result, console)
        _write(path, result)

    def hear(step: Step) -> None:
        if step.number <= 1 or not step.timed:  # of the rounds the first
            console.print(str(step), style="dim")

    with listen(hear):
        result = compare_plan(plan, settings, after_row, given.suite or "", earlier)
    _write(path, result)
    print_summary(result, console)
    console.print(f"all times: {path}")
    if given.suite and importlib.util.find_spec("matplotlib") is None:
        console.print(f"no picture: matplotlib is not installed: {INSTALL}", markup=False)
    elif given.suite:
        from benchmarks.plot import plot  # matplotlib is in the bench extra only

        plot(result, path.with_suffix(".svg"))
        console.print(f"picture: {path.with_suffix('.svg')}")
    return result


if __name__ == "__main__":
    main()
