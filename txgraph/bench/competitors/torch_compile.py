"""``torch.compile``: as it comes, as CUDA graphs, and with its settings for inference turned up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch._inductor import config
from torch.utils import _pytree as pytree

from txgraph.bench.competitors import Competitor, Run

# As torch's guide to max-autotune on CPUs says; freezing has no effect through options=. ATen stays among the
# choices: without it no product could be left to the library.
ON_CPU: dict[str, Any] = {"freezing": True, "max_autotune": True, "max_autotune_gemm_backends": "ATEN,CPP"}


class TorchCompile(Competitor):
    """With its defaults."""

    name = "torch.compile"

    def build(self, model: nn.Module, inputs: Mapping[str, Any]) -> Run:
        compiled = torch.compile(model)
        return lambda inputs: compiled(**inputs)


class TorchCompileReduceOverhead(Competitor):
    """Recorded as CUDA graphs, on GPUs; outputs are overwritten by the next call."""

    name = "torch.compile-reduce-overhead"

    def build(self, model: nn.Module, inputs: Mapping[str, Any]) -> Run:
        compiled = torch.compile(model, mode="reduce-overhead")
        return lambda inputs: compiled(**inputs)


class TorchCompileMaxAutotune(Competitor):
    """Every kernel chosen by measurement, weights frozen on CPUs."""

    name = "torch.compile-max-autotune"

    def __init__(self) -> None:
        self._settings: dict[str, Any] = {}

    def build(self, model: nn.Module, inputs: Mapping[str, Any]) -> Run:
        if all(t.device.type == "cpu" for t in pytree.tree_leaves(inputs) if isinstance(t, torch.Tensor)):
            self._settings = ON_CPU
        compiled = torch.compile(model, mode="max-autotune")
        with config.patch(self._settings):
            compiled(**inputs)  # compiles: the settings are read now
        return lambda inputs: compiled(**inputs)

    def details(self) -> dict[str, Any]:
        return {"mode": "max-autotune", **self._settings}
