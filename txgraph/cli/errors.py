"""Errors of txgraph as a line on stderr and an exit code, without a traceback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer

from txgraph.errors import TxgraphError


@contextmanager
def errors_as_text() -> Iterator[None]:
    """Print a :class:`TxgraphError` of the body, or that a file cannot be written or read, and exit with code 1.

    Arguments that are wrong are no errors of txgraph: for those commands raise ``typer.BadParameter``, code 2.
    """
    try:
        yield
    except (TxgraphError, OSError) as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(1) from error
