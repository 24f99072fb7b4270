"""``txgraph.optimize`` with its defaults, ahead of time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

import txgraph
from benchmarks.competitors import Run


class Txgraph:
    name = "txgraph"

    def __init__(self) -> None:
        self._report: dict[str, Any] = {}

    def build(self, model: nn.Module, inputs: Mapping[str, torch.Tensor]) -> Run:
        fast = txgraph.optimize(model, kwargs=dict(inputs))
        self._report = fast.report.to_dict()
        return lambda inputs: fast(**inputs)

    def details(self) -> dict[str, Any]:
        passes = [p for p in self._report["passes"] if p["status"] != "unchanged"]
        kept = {key: self._report[key] for key in ("verify", "graphs", "fallbacks", "notes", "seconds")}
        return {**kept, "passes": passes}
