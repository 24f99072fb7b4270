"""``txgraph.optimize``: with its defaults, with zeros at the padding, and with CUDA graphs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from txgraph.bench.competitors import Competitor, Run, ZeroPadding
from txgraph.optimize import optimize
from txgraph.optimized_model import OptimizedModel


class Txgraph(Competitor):
    """Ahead of time, for the inputs; ``backend`` is that of ``optimize``."""

    name = "txgraph"
    padding = "exact"
    options: Mapping[str, Any] = {}

    def __init__(self, backend: str = "inductor") -> None:
        self.backend = backend
        self.fast: OptimizedModel | None = None

    def build(self, model: nn.Module, inputs: Mapping[str, Any]) -> Run:
        fast = self.fast = optimize(
            model, kwargs=inputs, backend=self.backend, padding=self.padding, options=self.options
        )
        return lambda inputs: fast(**inputs)

    def details(self) -> dict[str, Any]:
        assert self.fast is not None, "build comes first"
        report = self.fast.report.to_dict()
        passes = [p for p in report["passes"] if p["status"] != "unchanged"]
        kept = {key: report[key] for key in ("verify", "graphs", "fallbacks", "notes", "seconds")}
        return {**kept, "passes": passes}


class TxgraphZeros(Txgraph, ZeroPadding):
    """Outputs at the padding are zeros."""

    name = "txgraph-zeros"
    padding = "zeros"


class TxgraphCudaGraphs(Txgraph):
    """Recorded as a CUDA graph."""

    name = "txgraph-cuda-graphs"
    options: Mapping[str, Any] = {"cuda_graphs": True}
