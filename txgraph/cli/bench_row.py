"""MODEL as a row of a comparison: what each worker process makes for itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import typer
from torch import nn

from txgraph.bench import Inputs, Row
from txgraph.capture import CallSignature
from txgraph.cli.models import load_call

# How far from eager is wrong, relative to eager's largest value. float32 as in the benchmarks' rows; narrower ones by
# the bits that they keep: over 24 layers of bfloat16 eager itself is 3 % away from float64.
TOLERANCES = {torch.float32: 1e-4, torch.float16: 1.25e-2, torch.bfloat16: 1e-1}

# Masks that models take, and where they say that there is a token.
_MASKS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "attention_mask": lambda mask: mask.bool(),
    "src_key_padding_mask": lambda mask: ~mask.bool(),
}


def model_row(model: str, inputs: str | None, batch: int, length: int) -> Row:
    """The row of a model and its inputs, which are those of :func:`load_call`.

    Raises:
        typer.BadParameter: as there; or an input has no name.
    """
    torch.manual_seed(0)  # weights made by chance are the same in every process
    call = load_call(model, inputs, batch, length)
    args, kwargs = CallSignature.of(call.model).normalise(call.args, call.kwargs)
    if args:
        raise typer.BadParameter(
            f"forward of {type(call.model).__name__} takes inputs without names: wrap it in a module that names them",
            param_hint="--inputs",
        )
    return Row(model, lambda: (call.model, kwargs), _tolerance(call.model, kwargs), padding_of(kwargs))


def padding_of(inputs: Inputs) -> Callable[[Inputs], torch.Tensor] | None:
    """What gives the positions [B, S] that are no padding; ``None`` where no mask hides any."""
    for name, valid in _MASKS.items():
        mask = inputs.get(name)
        if isinstance(mask, torch.Tensor) and mask.ndim == 2 and not valid(mask).all():
            return lambda inputs: valid(inputs[name])
    return None


def _tolerance(model: nn.Module, inputs: dict[str, Any]) -> float:
    tensors = [*model.parameters(), *model.buffers(), *(t for t in inputs.values() if isinstance(t, torch.Tensor))]
    return max((TOLERANCES.get(tensor.dtype, 0.0) for tensor in tensors), default=0.0) or TOLERANCES[torch.float32]
