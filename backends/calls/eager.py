"""A graph that is run as it is: its operators are called one by one."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch

from txgraph.ir import Graph, interpret


class Eager:
    """A graph whose operators are called one by one; it can be pickled."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph

    def __reduce__(self) -> tuple[type[Eager], tuple[Graph]]:
        return Eager, (self.graph,)

    @functools.cached_property
    def _module(self) -> torch.fx.GraphModule:
        return torch.fx.GraphModule(dict(self.graph.constants), self.graph.fx)

    @property
    def source(self) -> str:
        """What is run, as Python."""
        return self._module.code

    def __call__(self, *tensors: torch.Tensor) -> Sequence[Any]:
        """All outputs. Autocast does not act on it: what it did to the model is in the graph."""
        device = tensors[0].device.type if tensors else "cpu"
        if torch.is_autocast_enabled(device):
            with torch.autocast(device, enabled=False):
                return self._module(*tensors)  # type: ignore[no-any-return]  # a tuple, by the spec
        return self._module(*tensors)  # type: ignore[no-any-return]

    def watched(
        self, tensors: Sequence[torch.Tensor], around: Callable[[int], AbstractContextManager[object]]
    ) -> Sequence[Any]:
        """All outputs; ``around`` gives, for the number of each operator, what is entered while it runs."""
        return interpret(self.graph, tensors, around=around)

    @property
    def count(self) -> int:
        """How many operators are called."""
        return len(self.graph.calls())
