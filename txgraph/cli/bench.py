"""``txgraph bench``: a model's speed, side by side with eager and other compilers."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich import box
from rich.console import Console
from rich.table import Table

from txgraph.bench import (
    COMPETITORS,
    DEFAULT_COMPETITORS,
    Settings,
    WorkerFailed,
    compare_row,
    conditions,
    look_up,
    notes,
    with_arguments,
)
from txgraph.bench.competitors import OURS
from txgraph.bench.hardware import describe_hardware
from txgraph.cli.bench_row import model_row
from txgraph.cli.errors import errors_as_text
from txgraph.cli.options import (
    BackendOption,
    BatchOption,
    InputsOption,
    LengthOption,
    ModelArgument,
    PaddingOption,
)
from txgraph.errors import TxgraphError
from txgraph.progress import show_progress

DEFAULT = ",".join(DEFAULT_COMPETITORS)


def _competitors(text: str) -> str:
    for name in text.split(","):
        if name not in COMPETITORS:
            raise typer.BadParameter(f"no competitor {name!r}: there are {', '.join(COMPETITORS)}")
        for module in look_up(COMPETITORS[name]).packages:
            package = module.partition(".")[0]
            if importlib.util.find_spec(package) is None:
                raise typer.BadParameter(f"{name} needs {package}: pip install {package}")
    return text


CompetitorsOption = Annotated[
    str,
    typer.Option(
        "--competitors",
        metavar="NAME,...",
        callback=_competitors,
        help=f"Who takes part, of {', '.join(COMPETITORS)}.",
    ),
]
RoundsOption = Annotated[int, typer.Option("--rounds", metavar="N", min=1, help="Turns of each competitor.")]
ThreadsOption = Annotated[
    int | None,
    typer.Option("--threads", metavar="N", min=1, help="Threads of each competitor. Default: as many as torch takes."),
]
OutputOption = Annotated[
    Path | None,
    typer.Option("--output", "-o", metavar="FILE", dir_okay=False, help="Where every single time goes, as JSON."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Plain data, with every time. Default: a table.")]


def bench(
    model: ModelArgument,
    batch: BatchOption = 1,
    length: LengthOption = 128,
    inputs: InputsOption = None,
    competitors: CompetitorsOption = DEFAULT,
    backend: BackendOption = "inductor",
    padding: PaddingOption = "exact",
    rounds: RoundsOption = Settings.rounds,
    threads: ThreadsOption = None,
    output: OutputOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure MODEL beside eager and other compilers.

    Each competitor has a process of its own with empty caches, and they take turns. Outputs are judged against eager's
    in the same run. Times are medians; ratios are those within a round, and above 1 is faster. The best peer is the
    fastest that is right and not txgraph.

    Exit code 1 if MODEL fails in eager, or a competitor fails or is wrong.
    """
    with errors_as_text(), show_progress(disable=as_json):
        given: dict[str, Any] = {"model": model, "inputs": inputs, "batch": batch, "length": length}
        model_row(**given)  # what is wrong with the arguments is said before any process starts
        settings = Settings(rounds=rounds, threads=threads or torch.get_num_threads())
        try:
            row = compare_row(
                with_arguments(f"{model_row.__module__}:{model_row.__name__}", **given),
                _references(competitors.split(","), backend, padding),
                settings,
            )
        except WorkerFailed as error:
            raise TxgraphError(f"{model} fails in eager: {error}") from error
        data = json.dumps({**conditions(settings), "rows": [row]}, indent=1)
        if output is not None:
            output.write_text(f"{data}\n", encoding="utf-8")
    if as_json:
        typer.echo(data)
    else:
        _print(row, settings)
    if any(map(_bad, row["competitors"].values())):
        raise typer.Exit(1)


def _references(names: list[str], backend: str, padding: str) -> dict[str, str]:
    """The competitors; ours with the options that are for it."""
    references = {}
    for name in names:
        if padding == "zeros" and name == "txgraph":
            name = "txgraph-zeros"
        ours = name.startswith(OURS)
        references[name] = with_arguments(COMPETITORS[name], backend=backend) if ours else COMPETITORS[name]
    return references


def _print(row: dict[str, Any], settings: Settings) -> None:
    console = Console()
    inputs = ", ".join(f"{name} {shape}" for name, shape in row["inputs"].items())
    best = f"; the best peer is {row['best_peer']}" if row["best_peer"] else ""
    table = Table(
        title=f"{row['row']}, {inputs}",
        caption=f"{describe_hardware()}, {settings.threads} threads, torch {torch.__version__}{best}",
        box=box.SIMPLE_HEAD,
    )
    table.add_column("competitor", no_wrap=True)
    for heading in ("median ms", "times eager", "times best peer", "error", "cold s"):
        table.add_column(heading, justify="right")
    for name, entry in row["competitors"].items():
        table.add_row(name, *(["failed"] if entry["failed"] else _cells(entry)), style="red" if _bad(entry) else None)
    console.print(table)
    for note in notes(row):
        console.print(note, markup=False, highlight=False, soft_wrap=True)


def _cells(entry: dict[str, Any]) -> list[str]:
    ratios = [entry["times_faster"].get(baseline) for baseline in ("eager", "best peer")]
    error = entry["error"]["relative"]
    return [
        f"{entry['median_seconds'] * 1e3:.2f}",
        *(f"{each['median_of_rounds']:.2f}" if each else "" for each in ratios),
        "wrong" if entry["error"]["wrong"] else f"{error:.1e}",
        f"{entry['cold_seconds']:.1f}",
    ]


def _bad(entry: dict[str, Any]) -> bool:
    return bool(entry["failed"] or entry["error"]["wrong"])
