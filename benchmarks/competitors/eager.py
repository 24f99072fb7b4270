"""The model as it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from benchmarks.competitors import Run


class Eager:
    name = "eager"

    def build(self, model: nn.Module, inputs: Mapping[str, torch.Tensor]) -> Run:
        return lambda inputs: model(**inputs)

    def details(self) -> dict[str, Any]:
        return {}
