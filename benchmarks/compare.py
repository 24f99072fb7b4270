"""Speed, errors, cold compile seconds and memory of competitors, side by side on this machine.

    python -m benchmarks.compare --rows bert-base-1x128 bert-base-8x128 --rounds 15 --threads 2
    python -m benchmarks.compare --list

Every competitor has a process of its own (thread pools that share a process disturb each other). All processes of
a row are alive at once and wait, except the one that is at work. In each round every competitor has one turn, so
that a slow moment of the machine hits all of them: ratios are worth more than times.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.competitors import COMPETITORS, DEFAULT_COMPETITORS
from benchmarks.errors import compare_outputs
from benchmarks.hardware import describe_hardware, versions
from benchmarks.processes import Worker, WorkerFailed
from benchmarks.rows import DEFAULT_ROWS, ROWS
from benchmarks.table import print_row, wide_console

RESULTS = Path(__file__).parent / "results"
BASELINES = ("eager", "torch.compile")  # ratios are given to these


@dataclass(frozen=True)
class Settings:
    """How to measure.

    Attributes:
        rounds: turns of each competitor. threads: of each competitor.
        turn_seconds: a turn times calls until this has passed, and one at least.
        warm_up_calls: timed by no one, after the first call.
    """

    rounds: int = 15
    threads: int = 2
    turn_seconds: float = 0.3
    warm_up_calls: int = 3


def compare(
    rows: Sequence[str],
    competitors: Sequence[str],
    settings: Settings,
    progress: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Run the comparison; the result is plain data, with every time that was measured.

    ``rows`` and ``competitors`` are known names, or ``"module:attribute"`` of a :class:`benchmarks.rows.Row` and
    of a :class:`benchmarks.competitors.Competitor` class.
    """
    return {
        "hardware": describe_hardware(),
        "versions": versions(),
        "settings": asdict(settings),
        "rows": [compare_row(row, competitors, settings, progress) for row in rows],
    }


def compare_row(
    row: str, competitors: Sequence[str], settings: Settings, progress: Callable[[str], None]
) -> dict[str, Any]:
    """All competitors on one row.

    Raises:
        WorkerFailed: the row itself fails in eager.
    """
    progress(f"{row}: eager, for reference")
    with Worker(row, "eager", settings.threads) as worker:
        facts = worker.ask("hello")
        reference = {kind: torch.load(path) for kind, path in worker.ask("reference").items()}
    tolerance = facts["tolerance"]
    with ExitStack() as stack:
        entries: dict[str, dict[str, Any]] = {}
        workers: dict[str, Worker] = {}
        for competitor in competitors:
            progress(f"{row}: {competitor}, cold start")
            worker = stack.enter_context(Worker(row, competitor, settings.threads))
            name, entry = _start(worker, reference, tolerance)
            entries[name] = entry
            if not entry["failed"]:
                workers[name] = worker
        progress(f"{row}: {settings.rounds} rounds")
        turns = _take_turns(workers, entries, settings)
        for name, worker in workers.items():
            if not entries[name]["failed"]:
                _finish(worker, entries[name], reference, tolerance)
    _summarise(entries, turns)
    return {
        "row": facts["row"],
        "inputs": facts["inputs"],
        "weights_bytes": facts["weights_bytes"],
        "tolerance": tolerance,
        "machine_busy": _machine_busy(turns),
        "eager_error_against_float64": compare_outputs(reference["eager"], reference["float64"], math.inf),
        "competitors": entries,
        "turns": turns,
    }


def _start(worker: Worker, reference: dict[str, list[torch.Tensor]], tolerance: float) -> tuple[str, dict[str, Any]]:
    """Compile, call once and judge the outputs."""
    name = worker.competitor
    try:
        name = worker.ask("hello")["competitor"]
        built = worker.ask("build")
    except WorkerFailed as error:
        return name, {"failed": str(error)}
    outputs = torch.load(built["outputs"])
    return name, {
        "failed": "",
        "cold_seconds": built["build_seconds"] + built["first_call_seconds"],
        "build_seconds": built["build_seconds"],
        "first_call_seconds": built["first_call_seconds"],
        "rss_bytes": built["rss_bytes"],
        "error": compare_outputs(outputs, reference["eager"], tolerance),
        "error_against_float64": compare_outputs(outputs, reference["float64"], math.inf),
        "details": built["details"],
    }


def _take_turns(
    workers: dict[str, Worker], entries: dict[str, dict[str, Any]], settings: Settings
) -> list[dict[str, Any]]:
    """Warm up, then the rounds; gives all turns in the order in which they were taken."""
    turns: list[dict[str, Any]] = []
    for at in range(-1, settings.rounds):
        warming_up = at < 0
        calls = max(settings.warm_up_calls, 1) if warming_up else 1
        for name, worker in workers.items():
            if entries[name]["failed"]:
                continue
            try:
                answer = worker.ask("turn", seconds=0 if warming_up else settings.turn_seconds, calls=calls)
            except WorkerFailed as error:
                entries[name]["failed"] = f"in round {at}: {error}"
                continue
            if not warming_up:
                turns.append({"round": at, "competitor": name, **answer})
    return turns


def _finish(worker: Worker, entry: dict[str, Any], reference: dict[str, list[torch.Tensor]], tolerance: float) -> None:
    """Judge the outputs once more, and keep the worse."""
    try:
        answer = worker.ask("finish")
    except WorkerFailed as error:
        entry["failed"] = f"after the last round: {error}"
        return
    last = compare_outputs(torch.load(answer["outputs"]), reference["eager"], tolerance)
    entry["error"] = max(entry["error"], last, key=_badness)
    entry["rss_bytes"] |= answer["rss_bytes"]


def _badness(error: dict[str, Any]) -> float:
    return math.inf if error["relative"] is None else float(error["relative"])


def _summarise(entries: dict[str, dict[str, Any]], turns: list[dict[str, Any]]) -> None:
    """Add to each entry its median, minimum and ratios.

    A round counts by the median of its calls. ``times_faster`` holds, for each baseline, the ratio of the medians
    and the median, least and largest of the ratios within one round; over 1 is faster than the baseline.
    """
    rounds: dict[str, list[float]] = {}
    for turn in turns:
        rounds.setdefault(turn["competitor"], []).append(statistics.median(turn["seconds"]))
    for name, entry in entries.items():
        if entry["failed"] or name not in rounds:
            continue
        mine = rounds[name]
        entry["median_seconds"] = statistics.median(mine)
        entry["min_seconds"] = min(min(t["seconds"]) for t in turns if t["competitor"] == name)
        entry["times_faster"] = {}
        for baseline in BASELINES:
            theirs = rounds.get(baseline, [])
            if not theirs or entries[baseline]["failed"]:
                continue
            ratios = [b / m for b, m in zip(theirs, mine, strict=True)]
            entry["times_faster"][baseline] = {
                "of_medians": statistics.median(theirs) / statistics.median(mine),
                "median_of_rounds": statistics.median(ratios),
                "least": min(ratios),
                "largest": max(ratios),
            }


def _machine_busy(turns: list[dict[str, Any]]) -> float | None:
    """The median over all turns of the share of time in which some task waited for a core."""
    shares = [turn["machine_busy"] for turn in turns if turn["machine_busy"] is not None]
    return statistics.median(shares) if shares else None


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """The command line."""
    defaults = Settings()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=__doc__.split("\n")[0])
    parser.add_argument("--rows", nargs="+", default=list(DEFAULT_ROWS))
    parser.add_argument("--competitors", nargs="+", default=list(DEFAULT_COMPETITORS))
    parser.add_argument("--rounds", type=int, default=defaults.rounds)
    parser.add_argument("--threads", type=int, default=defaults.threads)
    parser.add_argument("--turn-seconds", type=float, default=defaults.turn_seconds)
    parser.add_argument("--warm-up-calls", type=int, default=defaults.warm_up_calls)
    parser.add_argument("--name", default="compare", help="the result is benchmarks/results/NAME.json")
    parser.add_argument("--results", type=Path, default=RESULTS, help="another folder for the result")
    parser.add_argument("--list", action="store_true", help="list the rows and competitors")
    given = parser.parse_args(arguments)
    console = wide_console()
    if given.list:
        console.print("rows:       ", *ROWS)
        console.print("competitors:", *COMPETITORS)
        return {}
    settings = Settings(given.rounds, given.threads, given.turn_seconds, given.warm_up_calls)
    result = compare(given.rows, given.competitors, settings, lambda text: console.print(text, style="dim"))
    for row in result["rows"]:
        print_row(row, result, console)
    path = given.results / f"{given.name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    console.print(f"all times: {path}")
    return result


if __name__ == "__main__":
    main()
