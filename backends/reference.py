"""The reference backend: runs the graph node by node in eager. Slow, and always right."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from txgraph.backends.base import Compiled, Watch
from txgraph.errors import BackendFailed
from txgraph.ir import Graph, Kernel, interpret
from txgraph.ir.kernel import operator_path
from txgraph.options import BackendOptions, Target


@dataclass(frozen=True)
class ReferenceBackend:
    """Interprets; its "code" is the graph's text."""

    name: str = "reference"
    fuses_elementwise: bool = False

    def fused_activations(self, target: Target) -> frozenset[str]:
        """None: fusing gains nothing here."""
        return frozenset()

    @property
    def settings(self) -> str:
        """None."""
        return ""

    def unsupported(self, graph: Graph, target: Target) -> list[str]:
        """Nothing: every valid graph runs in eager."""
        return []

    def obstacle(self, target: Target) -> str:
        """It runs a graph where the tensors are."""
        return 'the reference backend compiles nothing: use backend="inductor"'

    def prepare(self, weights: Iterable[torch.Tensor], target: Target) -> None:
        """Nothing takes long."""

    def lower(self, graph: Graph, target: Target, options: BackendOptions) -> Compiled:
        """Keep a copy of the graph and interpret it at each call."""
        own = graph.copy()

        def watched(tensors: Sequence[torch.Tensor], watch: Watch) -> Sequence[Any]:
            with watch.call():
                return interpret(own, tensors, around=watch.launch)

        kernels = tuple(Kernel(operator_path(node), (node.name,), "interpreted") for node in own.calls())
        return Compiled(lambda tensors: interpret(own, tensors), str(own), kernels=kernels, watched=watched)

    def restore(self, kept: Any) -> Compiled:
        """Nothing is kept: there is nothing to save by it."""
        raise BackendFailed("the reference backend keeps nothing")
