"""``txgraph optimize``: compile a model for one kind of call, and write what was done into a folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, get_args

import typer

from txgraph.cli.budget import BudgetOption, CalibrationOption, load_calibration, parse_budget
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
    backend: BackendOption = "inductor",
    verify: VerifyOption = "passes",
    padding: PaddingOption = "exact",
    budget: BudgetOption = None,
    calibration: CalibrationOption = None,
    profile: ProfileOption = False,
    benchmark: BenchmarkOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compile MODEL, check it against eager, and report what was done.

    It is compiled for one kind of call. The report is printed, and written with both graphs and the generated code.
    The compiled graph is kept: a process that optimizes this model for such a call starts warm.

    With --budget, precision and rank are lowered where that is faster, as far as the budget allows on data that chose
    nothing; what was spent where is in the report, on the page, and in budget.svg.

    Exit code 1 if txgraph failed, or a file cannot be written.
    """
    with errors_as_text(), show_progress(disable=as_json):
        call = load_call(model, inputs, batch, length)
        if calibration is not None and budget is None:
            raise typer.BadParameter("it is for --budget, which is not given", param_hint="--calibration")
        limits = None if budget is None else parse_budget(budget)
        batches = None if limits is None else load_calibration(calibration, model, call, batch, length)
        output.mkdir(parents=True, exist_ok=True)
        try:
            fast = optimize_model(
                call.model,
                call.args,
                call.kwargs,
                backend=backend,
                verify=verify,
                padding=padding,
                budget=limits,
                calibration=batches,
                profile=profile,
            )
        except ValueError as error:
            if limits is None:
                raise
            raise typer.BadParameter(str(error), param_hint="--budget") from error  # it cannot be kept
        say("write", str(output))
        data = json.dumps(fast.report.to_dict(), indent=2)
        (output / "report.txt").write_text(f"{fast.report}\n", encoding="utf-8")
        (output / "report.json").write_text(f"{data}\n", encoding="utf-8")
        (output / "code.py").write_text(fast.code(), encoding="utf-8")
        written = [
            "report.txt",
            "report.json",
            "code.py",
            fast.render(output / "graphs.html", benchmark=benchmark).name,
        ]
        if limits is not None:
            written.append(fast.render_budget(output / "budget.svg").name)
    typer.echo(data if as_json else str(fast.report))
    if not as_json:
        typer.echo(f"written: {output}/{', '.join(written)}", err=True)
