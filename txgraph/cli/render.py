"""``txgraph render``: a model's graph before and after the passes, as a picture."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from txgraph.cli.errors import errors_as_text
from txgraph.cli.explanations import captured_graph, context_of
from txgraph.cli.models import load_call
from txgraph.cli.options import BackendOption, BatchOption, InputsOption, LengthOption, ModelArgument
from txgraph.passes import default_pipeline
from txgraph.progress import say, show_progress
from txgraph.render import Picture, Stages
from txgraph.render import render as render_stages
from txgraph.render.files import FORMATS, VIEWS


def _known_ending(path: Path) -> Path:
    if path.suffix.lower() not in FORMATS:
        raise typer.BadParameter(f"cannot draw to {path.name!r}: the name must end in one of {', '.join(FORMATS)}")
    return path


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

ViewOption = Annotated[
    str | None,
    typer.Option(metavar="VIEW", help=f"One of {', '.join(VIEWS)}; diff draws both graphs as one, changes in full."),
]
LevelOption = Annotated[str, typer.Option(metavar="op|module", help="A box for each operator or each module.")]
DepthOption = Annotated[int | None, typer.Option(help="Modules further inside than this are drawn as one box.")]
FocusOption = Annotated[
    str, typer.Option(metavar="MODULE", help="Draw only what belongs to this module, such as encoder.layer.3.")
]
CollapseOption = Annotated[
    bool, typer.Option(help="Draw repeated layers once, and unchanged parts of a diff as one box.")
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Plain data: the file, and what the picture shows. Default: the file's name.")
]


def render(
    model: ModelArgument,
    output: OutputOption = Path("graphs.svg"),
    batch: BatchOption = 1,
    length: LengthOption = 128,
    inputs: InputsOption = None,
    backend: BackendOption = "inductor",
    view: ViewOption = None,
    level: LevelOption = "op",
    depth: DepthOption = None,
    focus: FocusOption = "",
    collapse: CollapseOption = True,
    as_json: JsonOption = False,
) -> None:
    """Draw the graph of MODEL before and after the passes.

    The default passes run; nothing is compiled, and nothing checked by numbers.
    """
    with errors_as_text(), show_progress(disable=as_json):
        try:
            picture = Picture(view, level, depth, focus, collapse)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error
        call = load_call(model, inputs, batch, length)
        before = captured_graph(call)
        context = context_of(call, before, backend)
        after, records = default_pipeline().run(before, context)
        rewrites = [rewrite for record in records for rewrite in record.rewrites]
        stages = Stages.of(default_pipeline(), before, after, rewrites, context)
        say("draw", str(output))
        try:
            written = render_stages(stages, output, picture, type(call.model).__name__)
        except ValueError as error:  # there is no such module, or no kernel yet
            raise typer.BadParameter(str(error)) from error
    typer.echo(json.dumps(_as_data(model, written, picture, stages), indent=2) if as_json else written)


def _as_data(model: str, written: Path, picture: Picture, stages: Stages) -> dict[str, object]:
    return {
        "model": model,
        "file": str(written),
        "view": picture.shown,
        "level": picture.level,
        "operators": {"before": len(stages.before.calls()), "after": len(stages.after.calls())},
        "rewrites": dict(Counter(rewrite.rule for rewrite in stages.rewrites)),
        "not_fused": [dataclasses.asdict(miss) for miss in stages.unfused()],
    }
