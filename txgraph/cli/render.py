"""``txgraph render``: a model's graph before and after the passes, as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from txgraph.cli.errors import errors_as_text
from txgraph.cli.explanations import captured_graph, context_of
from txgraph.cli.models import load_call
from txgraph.cli.options import BackendOption, BatchOption, InputsOption, LengthOption, ModelArgument
from txgraph.passes import default_pipeline
from txgraph.render import render_graphs
from txgraph.render.files import FORMATS, VIEWS


def _known_ending(path: Path) -> Path:
    if path.suffix.lower() not in FORMATS:
        raise typer.BadParameter(f"cannot draw to {path.name!r}: the name must end in one of {', '.join(FORMATS)}")
    return path


def _known_view(view: str) -> str:
    if view not in VIEWS:
        raise typer.BadParameter(f"it is one of {', '.join(VIEWS)}")
    return view


OutputOption = Annotated[
    Path,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        dir_okay=False,
        callback=_known_ending,
        help=f"Where to draw; the ending says how: {', '.join(FORMATS)}.",
    ),
]

ViewOption = Annotated[str, typer.Option(metavar="VIEW", callback=_known_view, help=f"One of {', '.join(VIEWS)}.")]
FocusOption = Annotated[
    str, typer.Option(metavar="MODULE", help="Draw only what belongs to this module, such as encoder.layer.3.")
]


def render(
    model: ModelArgument,
    output: OutputOption = Path("graphs.svg"),
    batch: BatchOption = 1,
    length: LengthOption = 128,
    inputs: InputsOption = None,
    backend: BackendOption = "auto",
    view: ViewOption = "side-by-side",
    focus: FocusOption = "",
) -> None:
    """Draw the graph of MODEL before and after the passes.

    The default passes run; nothing is compiled, and nothing checked by numbers.
    """
    with errors_as_text():
        call = load_call(model, inputs, batch, length)
        before = captured_graph(call)
        after, records = default_pipeline().run(before, context_of(call, backend))
        rewrites = [rewrite for record in records for rewrite in record.rewrites]
        title = type(call.model).__name__
        try:
            written = render_graphs(before, after, output, title=title, rewrites=rewrites, view=view, focus=focus)
        except ValueError as error:  # there is no such module
            raise typer.BadParameter(str(error), param_hint="--focus") from error
        typer.echo(written)
