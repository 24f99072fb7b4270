"""--budget and --calibration: from text to a budget and the calls that it holds on."""

from __future__ import annotations

import pickle
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from txgraph.capture import CallSignature
from txgraph.cli import hugging_face
from txgraph.cli.models import ModelCall, call_named
from txgraph.lossy import Budget, Calibration

LIMITS = ("relative_error", "sqnr_db", "top1_agreement")
NUMBERS = (*LIMITS, "seconds", "seed")

BudgetOption = Annotated[
    str | None,
    typer.Option(
        "--budget",
        metavar="LIMIT,...",
        help="How far outputs may move, for lower precision and low rank: a relative error, such as 0.02, or "
        f"NAME=NUMBER of {', '.join(LIMITS)}; seconds=NUMBER bounds the search.",
    ),
]
CalibrationOption = Annotated[
    str | None,
    typer.Option(
        "--calibration",
        metavar="FILE|MODULE:FUNCTION",
        help="Data like that the model will see, for --budget: a file of torch.save with a list of kwargs, one for "
        "each call, or a function that returns a loader. The built-in models bring their own.",
    ),
]


def parse_budget(text: str) -> Budget:
    """Read ``0.02``, ``sqnr_db=30`` or ``top1_agreement=0.99,seconds=120``.

    Raises:
        typer.BadParameter: it is something else, or no model could keep it.
    """
    given: dict[str, Any] = {}
    for part in text.split(","):
        name, _, number = map(str.strip, (part if "=" in part else f"relative_error={part}").partition("="))
        if name not in NUMBERS or name in given:
            reason = "given twice" if name in given else f"none of {', '.join(NUMBERS)}"
            raise typer.BadParameter(f"{name!r} is {reason}", param_hint="--budget")
        try:
            given[name] = int(number) if name == "seed" else float(number)
        except ValueError as error:
            raise typer.BadParameter(f"{part!r}: {number!r} is no number", param_hint="--budget") from error
    try:
        return Budget(**given)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--budget") from error


def load_calibration(name: str | None, model: str, call: ModelCall, batch: int, length: int) -> list[Any]:
    """The batches that ``name`` names, or those of a built-in model.

    Raises:
        typer.BadParameter: there are none, or they are no calls of this model.
    """
    batches = _batches(name, model, call, batch, length)
    try:
        calls = Calibration.of(batches).calls
        for each in calls:
            CallSignature.of(call.model).flatten(each.args, each.kwargs)
    except (TypeError, ValueError) as error:
        raise typer.BadParameter(str(error), param_hint="--calibration") from error
    return [each.args or each.kwargs for each in calls]


def _batches(name: str | None, model: str, call: ModelCall, batch: int, length: int) -> Iterable[Any]:
    if name is None:
        if model not in hugging_face.BUILT_IN:
            raise typer.BadParameter("--budget needs --calibration: data like that the model will see")
        return hugging_face.calibration(model, call.model, batch, length)
    if ":" in name and not Path(name).exists():
        return call_named(name, "--calibration")  # type: ignore[no-any-return]  # looked at by Calibration.of
    try:
        return torch.load(name, map_location="cpu", weights_only=True)  # type: ignore[no-any-return]  # likewise
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no file of torch.save that holds tensors only"
        raise typer.BadParameter(f"cannot read {name}: {reason}", param_hint="--calibration") from error
