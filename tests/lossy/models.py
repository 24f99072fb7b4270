"""A small trained-like model, data for it, and a search whose stopwatch is a table."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

import txgraph
from tests.small import traced
from txgraph import PassContext, Rewrite, compression
from txgraph.cost import Measurement
from txgraph.ir import Graph, check_spec
from txgraph.pipeline import PassResult
from txgraph.rewrite import LossyContext, LossyPass, Observed

FACTORS = {
    "int8": 0.3,
    "bfloat16": 0.6,
    "weight-only": 1.2,
    "low-rank": 0.5,
    "prune-channels": 0.9,
    "prune-heads": 0.9,
    "then": 0.2,
}


class Mixer(nn.Module):
    """Two blocks with a residual each, wide enough that int8 gains; channels of very different sizes."""

    def __init__(self, seed: int = 0, width: int = 32) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.up = nn.ModuleList(nn.Linear(width, 2 * width) for _ in range(2))
        self.down = nn.ModuleList(nn.Linear(2 * width, width) for _ in range(2))
        self.norm = nn.LayerNorm(width)
        self.eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for up, down in zip(self.up, self.down, strict=True):
            x = self.norm(x + down(nn.functional.gelu(up(x))))
        return x


def batches(count: int = 8, seed: int = 0, rows: int = 16, width: int = 32) -> list[torch.Tensor]:
    """Rows whose channels differ by a factor of ten."""
    generator = torch.Generator().manual_seed(seed)
    spread = torch.logspace(-0.5, 0.5, width)
    return [torch.randn(rows, width, generator=generator) * spread for _ in range(count)]


class Table:
    """Stands for the stopwatch: each rewrite takes a known share of what it replaces."""

    def __init__(self, *_: object) -> None: ...

    def times(self, result: PassResult, values: object = None) -> Iterator[tuple[str, Measurement]]:
        for rewrite in result.rewrites:
            yield rewrite.root, Measurement(rewrite.rule, rewrite.root, 1e-3, 1e-3 * FACTORS[rewrite.rule])


@pytest.fixture
def timed_by_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """Searches depend on nothing but their inputs."""
    monkeypatch.setattr(compression, "RewriteTimer", Table)


def spent(model: nn.Module, data: list[Any], budget: txgraph.Budget, **options: Any) -> txgraph.OptimizedModel:
    """The model under a budget, interpreted."""
    return txgraph.optimize(model, (data[0],), calibration=data, budget=budget, backend="reference", **options)


def observed(x: torch.Tensor) -> Observed:
    """What a calibration with these rows sees."""
    rows = x.reshape(-1, x.shape[-1])
    return Observed(len(rows), rows.abs().amax(0), rows.T @ rows / len(rows))


def applied(
    each: LossyPass, function: Any, x: torch.Tensor, seen: Observed | None = None, **constants: torch.Tensor
) -> tuple[Graph, list[Rewrite]]:
    """The graph that a lossy pass makes of a function, and what it rewrote; of equal numbers of inputs and outputs."""
    graph = traced(function, x, **constants)
    before = graph.copy()
    look = None if seen is None else (lambda graph, nodes: [{node.name: seen for node in nodes}])
    rewrites = each.run(graph, PassContext(lossy=LossyContext(observe=look)))
    graph.eliminate_dead_code()
    check_spec(graph, before)
    return graph, rewrites
