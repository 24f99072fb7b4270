"""Faults of ``backend="auto"``: what is judged, and what is measured, before a backend is chosen."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch import nn

import txgraph
from tests.mutants.edits import after, always, numbers
from tests.mutants.mutant import OPTIONS, Fault, Mutant, Scenario, Twins
from txgraph.backends import Backend, Compiled, auto, choose
from txgraph.backends.auto import AutoBackend
from txgraph.backends.reference import ReferenceBackend
from txgraph.ir import Graph, interpret
from txgraph.options import BackendOptions, Target

SLOW = 0.004  # seconds: more than noise
(X,) = numbers((2, 5, 8))


class Layers(nn.Module):
    """Layers with sigmoids, and a head with a tanh."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))
        self.head = nn.Linear(8, 4)
        self.eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = x + torch.sigmoid(layer(x))
        return torch.tanh(self.head(x)).relu()


@dataclass(frozen=True)
class Seeded(ReferenceBackend):
    """The interpreter, with a delay by graph, and a factor on what it gives."""

    delay: Callable[[Graph], float] = lambda graph: 0.0
    factor: float = 1.0

    def lower(self, graph: Graph, target: Target, options: BackendOptions) -> Compiled:
        own = graph.copy()

        def run(tensors: Sequence[torch.Tensor]) -> Sequence[Any]:
            time.sleep(self.delay(own))
            return [value * self.factor for value in interpret(own, tensors)]

        return Compiled(run)


def _has(graph: Graph, operator: str) -> bool:
    return any(operator in str(node.target) for node in graph.calls())


def _only_good_as_a_whole(graph: Graph) -> float:
    whole = _has(graph, "sigmoid") and _has(graph, "tanh")
    return 0.0 if whole else SLOW * (3 if _has(graph, "tanh") else 1)


def _best_on_heads(graph: Graph) -> float:
    return SLOW * (3 if _has(graph, "sigmoid") else 1)


def _chosen_first(*backends: Backend) -> Callable[[Twins], None]:
    """The first of the backends must be chosen, and its answers be right."""

    def steps(twins: Twins) -> None:
        with (
            mock.patch.object(choose, "_auto", return_value=AutoBackend(backends)),
            mock.patch.object(auto, "SECONDS", 0.05),
        ):
            options = {**OPTIONS, "layers": True, "cache": False}
            twins.fast = txgraph.optimize(twins.original, backend="auto", options=options)
            twins.call(x=X)
            twins.call(x=X.flip(0))
        choice = twins.fast.report.graphs[0].choices.get("backend", "first")  # absent, where none was good enough
        twins.expect("graphs by another way than the first", int(not choice.startswith("first")), 0)

    return steps


WRONG_AND_FAST = Scenario(
    "a backend that is fast and wrong",
    Layers,
    _chosen_first(Seeded("first", delay=lambda graph: SLOW), Seeded("other", factor=1.01)),
)
WHOLE = Scenario(
    "a graph that is best as a whole",
    Layers,
    _chosen_first(Seeded("first", delay=_only_good_as_a_whole), Seeded("other", delay=_best_on_heads)),
)

CHOICES = (
    Mutant(
        "wrong backend not judged",
        "what a backend made takes part without a look at what it gives",
        Fault(auto._Trial, "passes", always(True)),
        WRONG_AND_FAST,
    ),
    Mutant(
        "composition that is not faster",
        "pieces by several backends are taken as if they took no time",
        Fault(auto._Trial, "measure", after(lambda s: {**s, "by layers": 0.0} if "by layers" in s else s)),
        WHOLE,
    ),
    Mutant(
        "slowest taken",
        "times are compared the wrong way round",
        Fault(auto._Trial, "measure", after(lambda s: {name: 1 / seconds for name, seconds in s.items()})),
        WHOLE,
    ),
)
