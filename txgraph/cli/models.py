"""MODEL and --inputs: from text to a model and the example inputs of one call."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import typer
from torch import nn

from txgraph.capture import CallSignature
from txgraph.cli import hugging_face
from txgraph.progress import say

_KINDS = f"module:factory, a local Hugging Face folder, a config.json, or one of {', '.join(hugging_face.BUILT_IN)}"


@dataclass(frozen=True)
class ModelCall:
    """A model in eval mode, and the inputs of one call."""

    model: nn.Module
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)


def load_call(model: str, inputs: str | None, batch: int, length: int) -> ModelCall:
    """The model named ``model``, with the inputs that ``inputs`` names or that fit the model.

    Raises:
        typer.BadParameter: there is no such model, its inputs are not known, or do not fit its ``forward``.
    """
    say("model", model)
    made, own_inputs = _load(model)
    made = made.eval()
    if inputs is not None:
        value = call_named(inputs, "--inputs")
        if not isinstance(value, Mapping | tuple):
            raise typer.BadParameter(
                f"{inputs} gave a {type(value).__name__}, expected a mapping of keyword arguments or a tuple",
                param_hint="--inputs",
            )
    elif own_inputs is not None:
        value = own_inputs
    elif hugging_face.is_pretrained_model(made):
        value = hugging_face.example_inputs(made, batch, length)
    else:
        raise typer.BadParameter(
            f"the inputs of {model} are not known: give --inputs module:function, or return (model, kwargs)",
            param_hint="MODEL",
        )
    call = ModelCall(made, value) if isinstance(value, tuple) else ModelCall(made, kwargs=dict(value))
    try:
        CallSignature.of(made).flatten(call.args, call.kwargs)
    except TypeError as error:
        raise typer.BadParameter(f"the inputs do not fit the model: {error}", param_hint="--inputs") from error
    return call


def _load(name: str) -> tuple[nn.Module, Mapping[str, Any] | tuple[Any, ...] | None]:
    """The model, and its inputs if it comes with some."""
    if name in hugging_face.BUILT_IN:
        return hugging_face.BUILT_IN[name](), None
    if Path(name).exists():
        return hugging_face.from_path(Path(name)), None
    if ":" not in name:
        raise typer.BadParameter(f"no model {name!r}: expected {_KINDS}", param_hint="MODEL")
    value = call_named(name, "MODEL")
    match value:
        case nn.Module():
            return value, None
        case (nn.Module() as model, Mapping() | tuple() as inputs):
            return model, inputs
    raise typer.BadParameter(
        f"{name} gave a {type(value).__name__}, expected a torch.nn.Module, or a tuple (model, kwargs)",
        param_hint="MODEL",
    )


def call_named(reference: str, param_hint: str) -> Any:
    """What the function named ``module:function`` returns; the current folder is searched for modules, too."""
    module, _, name = reference.partition(":")
    if not (module and name) or module.startswith("."):
        raise typer.BadParameter(f"expected module:function, found {reference!r}", param_hint=param_hint)
    if os.getcwd() not in sys.path:  # as for python -m; an installed script starts without it
        sys.path.insert(0, os.getcwd())
    try:
        imported = importlib.import_module(module)
    except ImportError as error:
        raise typer.BadParameter(f"cannot import {module}: {error}", param_hint=param_hint) from error
    function = getattr(imported, name, None)
    if not callable(function):
        raise typer.BadParameter(f"{module} has no function or class {name!r}", param_hint=param_hint)
    return function()
