"""The command ``txgraph``: which subcommands there are."""

from __future__ import annotations

import typer

from txgraph.cli.bisect import bisect
from txgraph.cli.check import check
from txgraph.cli.doctor import doctor
from txgraph.cli.explain import explain
from txgraph.cli.optimize import optimize
from txgraph.cli.render import render

# Without markup an error is one line, however narrow the terminal: rich would put it into a box and break it.
app = typer.Typer(
    rich_markup_mode=None,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (optimize, explain, render, check, bisect, doctor):
    app.command()(command)


@app.callback()
def txgraph() -> None:
    """A graph-level compiler and optimizer for Transformer models in PyTorch."""


def main() -> None:
    """Run the command line and exit: 0, 1 where txgraph failed, 2 for arguments that are wrong."""
    app(prog_name="txgraph")
