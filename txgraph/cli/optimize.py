"""``txgraph optimize``: compile a model for one kind of call, and write what was done into a folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, get_args

import typer

from txgraph.cli.errors import errors_as_text
from txgraph.cli.models import load_call
from txgraph.cli.options import (
    BackendOption,
    BatchOption,
    InputsOption,
    LengthOption,
    ModelArgument,
    PaddingOption,
    one_of,
)
from txgraph.optimize import optimize as optimize_model
from txgraph.options import VerifyLevel
from txgraph.progress import say, show_progress

OutputOption = Annotated[
    Path,
    typer.Option(
        "--output",
        "-o",
        metavar="FOLDER",
        file_okay=False,
        help="Where report.txt, report.json, graphs.html and the generated code.py go; it is made if need be.",
    ),
]
VerifyOption = Annotated[
    str,
    typer.Option(
        "--verify",
        metavar="LEVEL",
        callback=lambda value: one_of(get_args(VerifyLevel), value),
        help="What is checked by numbers, as in optimize(): off, final, passes or rewrites.",
    ),
]
ProfileOption = Annotated[bool, typer.Option("--profile", help="Measure the call by kernel, module and pass, too.")]
BenchmarkOption = Annotated[
    Path | None,
    typer.Option("--benchmark", metavar="FILE", exists=True, help="What bench -o wrote, to stand on the page, too."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="The report as plain data. Default: text.")]


def optimize(
    model: ModelArgument,
    output: OutputOption = Path("optimized"),
    batch: BatchOption = 1,
    length: LengthOption = 128,
    inputs: InputsOption = None,
    backend: BackendOption = "auto",
    verify: VerifyOption = "passes",
    padding: PaddingOption = "exact",
    profile: ProfileOption = False,
    benchmark: BenchmarkOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compile MODEL, check it against eager, and report what was done.

    It is compiled for one kind of call. The report is printed, and written with both graphs and the generated code.
    The compiled graph is kept: a process that optimizes this model for such a call starts warm.

    Exit code 1 if txgraph failed, or a file cannot be written.
    """
    with errors_as_text(), show_progress(disable=as_json):
        call = load_call(model, inputs, batch, length)
        output.mkdir(parents=True, exist_ok=True)
        fast = optimize_model(
            call.model, call.args, call.kwargs, backend=backend, verify=verify, padding=padding, profile=profile
        )
        say("write", str(output))
        data = json.dumps(fast.report.to_dict(), indent=2)
        (output / "report.txt").write_text(f"{fast.report}\n", encoding="utf-8")
        (output / "report.json").write_text(f"{data}\n", encoding="utf-8")
        (output / "code.py").write_text(fast.code(), encoding="utf-8")
        drawn = fast.render(output / "graphs.html", benchmark=benchmark)
    typer.echo(data if as_json else str(fast.report))
    if not as_json:
        typer.echo(f"written: {output}/report.txt, report.json, code.py, {drawn.name}", err=True)
