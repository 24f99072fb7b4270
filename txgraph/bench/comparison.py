"""All competitors on one row: a process each, turns in rounds, outputs judged."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

import torch

from txgraph.bench.competitors import COMPETITORS
from txgraph.bench.errors import compare_outputs, not_zero_at_padding
from txgraph.bench.hardware import describe_hardware, versions
from txgraph.bench.processes import Worker, WorkerFailed
from txgraph.bench.summary import machine_busy, summarise_row
from txgraph.progress import say, track


@dataclass(frozen=True)
class Settings:
    """How to measure.

    Attributes:
        rounds: turns of each competitor. threads: of each competitor.
        turn_seconds: a turn times calls until this has passed, and one at least.
        warm_up_calls: timed by no one, after the first call.
        cold_limit: seconds after which a competitor that compiles, or has not answered otherwise, has failed. One that
            searches has its :attr:`Competitor.search_seconds` besides.
    """

    rounds: int = 15
    threads: int = 2
    turn_seconds: float = 0.15
    warm_up_calls: int = 2
    cold_limit: float = 300.0


@dataclass(frozen=True)
class _Judge:
    """What outputs are compared with; ``valid`` [B, S] on padded rows."""

    eager: Sequence[torch.Tensor]
    float64: Sequence[torch.Tensor]
    valid: torch.Tensor | None
    tolerance: float

    def errors(self, outputs: Sequence[torch.Tensor], promises_zeros: bool) -> dict[str, Any]:
        """All competitors are judged at the valid positions; whoever promises more, there too."""
        found = {
            "error": compare_outputs(outputs, self.eager, self.tolerance, self.valid),
            "error_against_float64": compare_outputs(outputs, self.float64, math.inf, self.valid),
        }
        if self.valid is not None and promises_zeros:
            found["error"]["wrong"] = found["error"]["wrong"] or not_zero_at_padding(outputs, self.valid)
        elif self.valid is not None:
            found["error_everywhere"] = compare_outputs(outputs, self.eager, self.tolerance)
        return found


def conditions(settings: Settings) -> dict[str, Any]:
    """What a result depends on beside its rows, as plain data."""
    return {"hardware": describe_hardware(), "versions": versions(), "settings": asdict(settings)}


def compare_row(row: str, competitors: Mapping[str, str], settings: Settings) -> dict[str, Any]:
    """All competitors on one row; plain data, with every time that was measured.

    Args:
        row: reference of a :class:`Row`, or of a function that gives one. competitors: their references by name.

    Raises:
        WorkerFailed: the row itself fails in eager.
    """
    say("reference", "eager, and in float64")
    with ExitStack() as stack:
        # All start at once: they import and make their models, which no one times.
        reference = stack.enter_context(Worker(row, COMPETITORS["eager"], settings.threads))
        started = [
            stack.enter_context(Worker(row, competitor, settings.threads, name))
            for name, competitor in competitors.items()
        ]
        for worker in (reference, *started):
            worker.tell("hello")
        facts = reference.answer(settings.cold_limit)
        judge, eager_error, not_in_float64 = _reference(reference, facts["tolerance"], settings)
        hellos = {worker: _hello(worker, settings) for worker in started}
        entries: dict[str, dict[str, Any]] = {}
        workers: dict[str, Worker] = {}
        for worker, (name, entry) in track(hellos.items(), "cold start", lambda item: item[1][0]):
            if not entry["failed"]:
                _start(worker, entry, judge, settings)
            entries[name], workers[name] = entry, worker
            if entry["failed"]:
                worker.close()
        turns = _take_turns(workers, entries, settings)
        for name, worker in workers.items():
            if not entries[name]["failed"]:
                _finish(worker, entries[name], judge, settings)
    return {
        "row": facts["row"],
        "failed": "",
        "inputs": facts["inputs"],
        "dtype": facts["dtype"],
        "new_tokens": facts["new_tokens"],
        "judged_at": "all positions" if judge.valid is None else "valid positions",
        "density": None if judge.valid is None else float(judge.valid.double().mean()),
        "weights_bytes": facts["weights_bytes"],
        "tolerance": judge.tolerance,
        "machine_busy": machine_busy(turns),
        "eager_error_against_float64": eager_error,
        "not_in_float64": not_in_float64,
        **summarise_row(entries, turns, facts["new_tokens"]),
        "competitors": entries,
        "turns": turns,
    }


def _reference(worker: Worker, tolerance: float, settings: Settings) -> tuple[_Judge, dict[str, Any], str]:
    answer = worker.ask("reference", settings.cold_limit)
    saved = {kind: torch.load(answer[kind]) for kind in ("eager", "float64", "valid")}
    worker.close()
    valid = next(iter(saved["valid"]), None)
    judge = _Judge(saved["eager"], saved["float64"], valid, tolerance)
    return judge, compare_outputs(judge.eager, judge.float64, math.inf, valid), answer["not_in_float64"]


def _hello(worker: Worker, settings: Settings) -> tuple[str, dict[str, Any]]:
    try:
        facts = worker.answer(settings.cold_limit)
    except WorkerFailed as error:
        return worker.name, {"failed": str(error)}
    told = {key: facts[key] for key in ("promises_zeros", "search_seconds")}
    return facts["competitor"], {"failed": "", **told}


def _start(worker: Worker, entry: dict[str, Any], judge: _Judge, settings: Settings) -> None:
    """Compile, call once and judge the outputs."""
    try:
        built = worker.ask("build", settings.cold_limit + entry["search_seconds"])
    except WorkerFailed as error:
        entry["failed"] = str(error)
        return
    entry["cold_seconds"] = built["build_seconds"] + built["first_call_seconds"]
    for key in ("build_seconds", "first_call_seconds", "rss_bytes", "details"):
        entry[key] = built[key]
    entry |= judge.errors(torch.load(built["outputs"]), entry["promises_zeros"])


def _take_turns(
    workers: dict[str, Worker], entries: dict[str, dict[str, Any]], settings: Settings
) -> list[dict[str, Any]]:
    """Warm up, then the rounds; gives all turns in the order in which they were taken."""

    def take(at: int, seconds: float, calls: int) -> Iterator[dict[str, Any]]:
        for name, worker in workers.items():
            if entries[name]["failed"]:
                continue
            try:
                answer = worker.ask("turn", settings.cold_limit, seconds=seconds, calls=calls)
            except WorkerFailed as error:
                entries[name]["failed"] = f"in round {at}: {error}"
                continue
            yield {"round": at, "competitor": name, **answer}

    say("warm up")
    list(take(-1, 0.0, max(settings.warm_up_calls, 1)))
    rounds = track(range(settings.rounds), "rounds", timed=True)
    return [turn for at in rounds for turn in take(at, settings.turn_seconds, 1)]


def _finish(worker: Worker, entry: dict[str, Any], judge: _Judge, settings: Settings) -> None:
    """Judge the outputs once more, and keep the worse."""
    try:
        answer = worker.ask("finish", settings.cold_limit)
    except WorkerFailed as error:
        entry["failed"] = f"after the last round: {error}"
        return
    for key, last in judge.errors(torch.load(answer["outputs"]), entry["promises_zeros"]).items():
        entry[key] = max(entry[key], last, key=_badness)
    entry["rss_bytes"] |= answer["rss_bytes"]


def _badness(error: dict[str, Any]) -> tuple[bool, float]:
    return bool(error["wrong"]), math.inf if error["relative"] is None else float(error["relative"])
