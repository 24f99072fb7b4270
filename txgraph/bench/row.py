"""A row of a comparison: one model and the inputs of one call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

Inputs = Mapping[str, Any]
"""Keyword arguments of one call."""
Made = tuple[nn.Module, Inputs]


@dataclass(frozen=True)
class Row:
    """One model, and how its outputs are judged.

    Attributes:
        name: how users name it.
        make: gives the model in eval mode, and the keyword arguments of one call; the same in every process.
        tolerance: largest error against eager that is not called wrong, relative to eager's largest value.
        valid: for padded rows: the positions [B, S] that are no padding, from the inputs.
        new_tokens: that one call generates, on rows that decode.
    """

    name: str
    make: Callable[[], Made]
    tolerance: float = 1e-4
    valid: Callable[[Inputs], torch.Tensor] | None = None
    new_tokens: int = 0
