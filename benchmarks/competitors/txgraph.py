"""``txgraph.optimize``: with its defaults, and with zeros at the padding."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

import txgraph
from benchmarks.competitors import Run, ZeroPadding
from benchmarks.decoding import GreedyDecoding


class Txgraph:
    """Ahead of time; where the model decodes, lazily, by its own ``generate``."""

    name = "txgraph"
    padding = "exact"

    def __init__(self) -> None:
        self._fast: txgraph.OptimizedModel | None = None
        self._decodes = False

    def build(self, model: nn.Module, inputs: Mapping[str, torch.Tensor]) -> Run:
        if isinstance(model, GreedyDecoding):
            self._decodes = True
            self._fast = txgraph.optimize(model.decoder)
            decoding = GreedyDecoding(self._fast, model.new_tokens)
            return lambda inputs: decoding(**inputs)
        fast = self._fast = txgraph.optimize(model, kwargs=dict(inputs), padding=self.padding)
        return lambda inputs: fast(**inputs)

    def details(self) -> dict[str, Any]:
        assert self._fast is not None
        report = self._fast.report.to_dict()
        passes = [p for p in report["passes"] if p["status"] != "unchanged"]
        kept = {key: report[key] for key in ("verify", "graphs", "fallbacks", "notes", "seconds")}
        note = {"note": "no graph was compiled: generate ran the original's eager forward"}
        return {**kept, "passes": passes, **(note if self._decodes and not report["graphs"] else {})}


class TxgraphZeros(Txgraph, ZeroPadding):
    name = "txgraph-zeros"
    padding = "zeros"
