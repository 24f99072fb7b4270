"""``txgraph check``: rewrite rules by themselves, on graphs that are made for them."""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated

import typer

from txgraph.check import VALUES
from txgraph.check import check as check_rule
from txgraph.cli.models import call_named
from txgraph.errors import CheckFailed
from txgraph.passes import default_pipeline
from txgraph.progress import show_progress
from txgraph.rewrite import Pass

RuleArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="RULE...",
        show_default=False,
        help="module:Pass, a class or function that gives a pass when it is called without arguments, or the name of a "
        "built-in pass.",
    ),
]
WithoutOption = Annotated[
    list[str] | None,
    typer.Option("--without", metavar="VALUES", help=f"Values that are not tried, of {', '.join(VALUES)}; repeatable."),
]
GraphsOption = Annotated[
    int, typer.Option("--graphs", metavar="N", min=1, help="Graphs that the rule rewrites, to be tried.")
]
SecondsOption = Annotated[
    float, typer.Option("--seconds", metavar="S", min=0.1, help="How long such graphs are looked for.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Plain data. Default: text.")]


def check(
    rules: RuleArgument,
    without: WithoutOption = None,
    graphs: GraphsOption = 8,
    seconds: SecondsOption = 20.0,
    as_json: JsonOption = False,
) -> None:
    """Try rewrite rules by themselves, on graphs made for them.

    Each RULE is compared with what it replaces, on graphs that it rewrites: sizes, dtypes, edge values and layouts.

    Exit code 1 if one of them is wrong, with a small counterexample, or if no graph was found for it.
    """
    unknown = [name for name in without or [] if name not in VALUES]
    if unknown:
        raise typer.BadParameter(f"no values {unknown[0]!r}; there are {', '.join(VALUES)}", param_hint="--without")
    results: list[dict[str, object]] = []
    for each in [_load(name) for name in rules]:
        try:
            with show_progress(disable=as_json):
                checked = check_rule(each, without=without or (), graphs=graphs, seconds=seconds)
            results.append({**dataclasses.asdict(checked), "error": ""})
        except CheckFailed as error:
            results.append({"rule": each.name, "error": str(error)})
        if not as_json:
            _print(results[-1])
    if as_json:
        typer.echo(json.dumps(results, indent=2))
    if any(result["error"] for result in results):
        raise typer.Exit(1)


def _print(result: dict[str, object]) -> None:
    if result["error"]:
        typer.echo(f"Error: {result['error']}", err=True)
    else:
        typer.echo(f"{result['rule']}: right in {result['cases']} cases of {result['programs']} graphs")


def _load(name: str) -> Pass:
    built_in = {each.name: each for each in default_pipeline()}
    if name in built_in:
        return built_in[name]
    if ":" not in name:
        raise typer.BadParameter(f"no pass {name!r}: expected module:Pass, or a built-in name", param_hint="RULE")
    value = call_named(name, "RULE")
    if not isinstance(value, Pass):
        raise typer.BadParameter(f"{name} gave a {type(value).__name__}, expected a txgraph.Pass", param_hint="RULE")
    return value
