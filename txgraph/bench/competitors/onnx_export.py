"""A model as an ONNX file, for the competitors that read one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn


def export_onnx(
    model: nn.Module, inputs: Mapping[str, Any], folder: Path, dynamic_shapes: dict[str, Any] | None = None
) -> Path:
    """Write ``model`` for such inputs, its weights beside it; the inputs keep their names."""
    path = folder / "model.onnx"
    torch.onnx.export(
        model,
        kwargs=dict(inputs),
        f=path,
        dynamo=True,
        external_data=True,
        dynamic_shapes=dynamic_shapes,
        verbose=False,
    )
    return path


def as_arrays(inputs: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """The named inputs as NumPy arrays that share memory with the tensors."""
    return {name: inputs[name].numpy() for name in names}
