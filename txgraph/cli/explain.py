"""``txgraph explain``: where passes rewrite a model, and why not elsewhere."""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated

import typer
from rich.console import Console

from txgraph.cli.errors import errors_as_text
from txgraph.cli.explanations import explain_passes
from txgraph.cli.models import load_call
from txgraph.cli.options import BackendOption, BatchOption, InputsOption, LengthOption, ModelArgument
from txgraph.cli.overview import has_news, overview
from txgraph.explain import Explanation
from txgraph.passes import default_pipeline
from txgraph.progress import show_progress

PassArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[PASS]...",
        show_default=False,
        help="Names of passes to explain place by place. Default: an overview of those that rewrote something, or "
        "whose pattern fitted and was rejected.",
    ),
]
AllOption = Annotated[bool, typer.Option("--all", help="Every pass in the overview. Default: off.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Plain data, with every place. Default: text.")]


def explain(
    model: ModelArgument,
    names: PassArgument = None,
    batch: BatchOption = 1,
    length: LengthOption = 128,
    inputs: InputsOption = None,
    backend: BackendOption = "inductor",
    show_all: AllOption = False,
    as_json: JsonOption = False,
) -> None:
    """Say where passes rewrite MODEL, and why not elsewhere.

    The model is captured in eval mode and the default passes run; nothing is compiled, and nothing checked by numbers.

    Exit code 1 if the model cannot be captured, or a pass failed.
    """
    _check_names(names or [], show_all)
    with errors_as_text(), show_progress(disable=as_json):
        explanations = explain_passes(load_call(model, inputs, batch, length), backend)
    if names:
        chosen = [explanations[name] for name in dict.fromkeys(names)]
    else:
        chosen = [each for each in explanations.values() if show_all or has_news(each)]
    if as_json:
        passes = [_as_data(each) for each in chosen]
        typer.echo(json.dumps({"model": model, "backend": backend, "passes": passes}, indent=2))
    else:
        _print(chosen, brief=not names)


def _check_names(names: list[str], show_all: bool) -> None:
    known = dict.fromkeys(default_pipeline().names)
    unknown = [name for name in names if name not in known]
    if unknown:
        raise typer.BadParameter(
            f"no pass named {', '.join(map(repr, unknown))}; there are {', '.join(known)}", param_hint="PASS"
        )
    if names and show_all:
        raise typer.BadParameter("give names of passes or --all, not both", param_hint="--all")


def _print(chosen: list[Explanation], brief: bool) -> None:
    # Lines as long as they are: reasons and source lines are searched for, and a break would hide them.
    console = Console(soft_wrap=True, highlight=False, markup=False)
    for each in chosen:
        heading, *lines = (overview(each) if brief else str(each)).splitlines()
        console.print(heading, style="bold")
        for line in lines:
            console.print(line)
    if brief:
        console.print("With names of passes: each place with its module and source line.", style="dim")


def _as_data(explanation: Explanation) -> dict[str, object]:
    return {
        "name": explanation.name,
        "rewrites": [dataclasses.asdict(each) for each in explanation.rewrites],
        "near_misses": [dataclasses.asdict(each) for each in explanation.near_misses],
    }
