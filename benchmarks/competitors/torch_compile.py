"""``torch.compile``: as it comes, and with its settings for inference turned up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch._inductor import config

from benchmarks.competitors import Run


class TorchCompile:
    name = "torch.compile"

    def build(self, model: nn.Module, inputs: Mapping[str, torch.Tensor]) -> Run:
        compiled = torch.compile(model)
        return lambda inputs: compiled(**inputs)

    def details(self) -> dict[str, Any]:
        return {}


class TorchCompileMaxAutotune:
    name = "torch.compile-max-autotune"

    def build(self, model: nn.Module, inputs: Mapping[str, torch.Tensor]) -> Run:
        config.freezing = True  # through options= it has no effect; the worker has no other user of it
        compiled = torch.compile(model, mode="max-autotune")
        return lambda inputs: compiled(**inputs)

    def details(self) -> dict[str, Any]:
        return {"freezing": True, "mode": "max-autotune"}
