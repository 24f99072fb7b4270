"""The protocol that every backend follows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from txgraph.ir import Graph, Kernel
from txgraph.options import BackendOptions, Target


class Watch(Protocol):
    """Sees what one call runs, and when."""

    def call(self) -> AbstractContextManager[object]:
        """Entered while the call runs."""

    def launch(self, number: int) -> AbstractContextManager[object]:
        """Entered while the kernel of that number runs."""


@dataclass(frozen=True)
class Compiled:
    """A graph that runs.

    Attributes:
        run: takes the tensors of a call, gives all outputs of the graph: mutated values first. Writes to nothing.
        code: generated source, as text.
        choices: decisions taken by measurement, for the report.
        update: the same, but writes some of the mutated values where they belong; needs inputs that do not overlap.
        in_place: the places of these among the outputs.
        keep: gives what :meth:`Backend.restore` makes this of again in another process, where that can be.
        frozen: names of the model's tensors whose values it holds, beside those that the graph holds.
        kernels: what one call launches, in that order.
        watched: as ``run``, and tells of each of the kernels.
        fallbacks: operators that it does not know, and calls one by one, in words, for the report.
    """

    run: Callable[[Sequence[torch.Tensor]], Sequence[Any]]
    code: str = ""
    choices: dict[str, str] = field(default_factory=dict)
    update: Callable[[Sequence[torch.Tensor]], Sequence[Any]] | None = None
    in_place: frozenset[int] = frozenset()
    keep: Callable[[], Any] | None = None
    frozen: frozenset[str] = frozenset()
    kernels: tuple[Kernel, ...] = ()
    watched: Callable[[Sequence[torch.Tensor], Watch], Sequence[Any]] | None = None
    fallbacks: tuple[str, ...] = ()


class Backend(Protocol):
    """Lowers graphs to a target."""

    @property
    def name(self) -> str:
        """How users name it."""

    def fused_activations(self, target: Target) -> frozenset[str]:
        """Activations that this backend can compute inside a linear (keys of ``ir.ops.ACTIVATIONS``)."""

    @property
    def fuses_elementwise(self) -> bool:
        """Whether connected elementwise operators, reductions and norms become one kernel."""

    @property
    def settings(self) -> str:
        """What else decides how it compiles, beside the options, as a text."""

    def unsupported(self, graph: Graph, target: Target) -> list[str]:
        """Why the graph cannot be lowered: a line for each node that stands in the way."""

    def obstacle(self, target: Target) -> str:
        """What keeps it from compiling for a device that this machine lacks, and what to do; empty: nothing."""

    def prepare(self, weights: Iterable[torch.Tensor], target: Target) -> None:
        """Start, in another thread, what takes long and will be needed to lower a graph with these weights."""

    def lower(self, graph: Graph, target: Target, options: BackendOptions) -> Compiled:
        """Compile ``graph``, which is not changed.

        Raises:
            BackendFailed: the compiler failed; the message holds its reason.
        """

    def restore(self, kept: Any) -> Compiled:
        """What ``keep()`` of a compiled graph gave, as a compiled graph again.

        Raises:
            BackendFailed: it cannot be loaded here.
        """
