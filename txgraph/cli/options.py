"""Arguments and options that commands share: their names, and what ``--help`` says of them."""

from __future__ import annotations

from typing import Annotated

import typer

from txgraph.backends import backend_names

ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        show_default=False,
        help="module:factory (called without arguments; gives a model, or a model and its inputs), a local Hugging "
        "Face folder, a config.json (random weights), or one of bert-base, gpt2, minilm. Nothing is downloaded.",
    ),
]
InputsOption = Annotated[
    str | None,
    typer.Option(
        "--inputs",
        metavar="MODULE:FUNCTION",
        help="Called without arguments; gives the inputs of one call: a mapping of keyword arguments, or a tuple. "
        "Default: those of the factory, or, for Hugging Face models, seeded ones.",
    ),
]
BatchOption = Annotated[int, typer.Option("--batch", min=1, help="Batch size of seeded inputs.")]
LengthOption = Annotated[int, typer.Option("--length", min=1, help="Tokens in each sequence of seeded inputs.")]


def _known_backend(name: str) -> str:
    if name not in backend_names():
        raise typer.BadParameter(f"unknown backend {name!r}: expected one of {', '.join(backend_names())}")
    return name


BackendOption = Annotated[
    str,
    typer.Option(
        "--backend",
        metavar="NAME",
        callback=_known_backend,
        help="The backend that passes are weighed for: inductor, reference, or auto, which optimize() takes.",
    ),
]
