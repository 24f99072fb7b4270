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
        help="module:function that returns a model, or a model and its inputs; a local Hugging Face folder; a "
        "config.json (random weights); or one of bert-base, gpt2, minilm. Nothing is downloaded.",
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
BatchOption = Annotated[int, typer.Option("--batch", metavar="N", min=1, help="Batch size of seeded inputs.")]
LengthOption = Annotated[
    int, typer.Option("--length", metavar="N", min=1, help="Tokens in each sequence of seeded inputs.")
]


def one_of(known: tuple[str, ...], value: str) -> str:
    """The value.

    Raises:
        typer.BadParameter: it is unknown.
    """
    if value not in known:
        raise typer.BadParameter(f"{value!r} is none of {', '.join(known)}")
    return value


PaddingOption = Annotated[
    str,
    typer.Option(
        "--padding",
        metavar="exact|zeros",
        callback=lambda value: one_of(("exact", "zeros"), value),
        help="zeros: nobody uses what the outputs hold at padding, and the work there may be left out.",
    ),
]


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
        help="What compiles, and what passes are weighed for: inductor, reference (an interpreter), or auto.",
    ),
]
