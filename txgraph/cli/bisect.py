"""``txgraph bisect``: which rewrite, or which compiled operators, make a model wrong or slow."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer

from txgraph.bisect import bisect as find_culprits
from txgraph.cli.errors import errors_as_text
from txgraph.cli.models import load_call
from txgraph.cli.options import BackendOption, BatchOption, InputsOption, LengthOption, ModelArgument
from txgraph.progress import show_progress

SlowOption = Annotated[
    bool, typer.Option("--slow", help="Look for what makes it slower, by stopwatch. Default: wrong.")
]
OutputOption = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        dir_okay=False,
        help="Where to write a Python file that shows a wrong backend by itself. Default: bisected.py.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Plain data. Default: text.")]


def bisect(
    model: ModelArgument,
    batch: BatchOption = 1,
    length: LengthOption = 128,
    inputs: InputsOption = None,
    backend: BackendOption = "inductor",
    slow: SlowOption = False,
    output: OutputOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find which rewrites or compiled operators make MODEL wrong.

    Exit code 1 if there are any, or txgraph failed.
    """
    with errors_as_text(), show_progress(disable=as_json):
        call = load_call(model, inputs, batch, length)
        found = find_culprits(call.model, call.args, call.kwargs, backend=backend, slow=slow)
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(each) for each in found], indent=2))
    else:
        typer.echo("\n".join(map(str, found)) or f"nothing is {'slower' if slow else 'wrong'}")
    for each in found:
        if each.reproduction:
            path = output or Path("bisected.py")
            path.write_text(each.reproduction, encoding="utf-8")
            typer.echo(f"run `python {path}` to see it", err=True)
    if found:
        raise typer.Exit(1)
