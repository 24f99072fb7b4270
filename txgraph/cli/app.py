"""The command ``txgraph``: which subcommands there are."""

from __future__ import annotations

import typer

from txgraph.cli.bench import bench
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
for command in (optimize, bench, explain, render, bisect, check, doctor):
    app.command()(command)


EPILOG = """\b
MODEL is one of
  my_model:make         what make() of my_model.py returns: a model, or
                        (model, inputs)
  path/to/folder        a Hugging Face model on this machine
  path/to/config.json   a Hugging Face configuration, with random weights
  bert-base, gpt2       the default configurations, with random weights
  minilm                the trained all-MiniLM-L6-v2

\b
Exit codes
  0  done
  1  txgraph failed; or bench, bisect, check or doctor found a fault
  2  an argument is wrong

\b
To begin with
  txgraph doctor
  txgraph bench bert-base
  txgraph optimize bert-base -o out/
"""


@app.callback(epilog=EPILOG)
def txgraph() -> None:
    """A graph-level compiler and optimizer for Transformer models in PyTorch."""


def main() -> None:
    """Run the command line and exit: 0, 1 where txgraph failed, 2 for arguments that are wrong."""
    app(prog_name="txgraph")
