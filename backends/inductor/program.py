"""Run compiled pieces one after the other; values are freed after their last use."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Node

from txgraph.backends.base import Watch
from txgraph.backends.calls.eager import Eager
from txgraph.backends.inductor.generated import Generated
from txgraph.backends.pieces import Piece
from txgraph.ir import Graph

_Function = Callable[..., Sequence[Any]]


@dataclass(frozen=True)
class Step:
    """The call of one piece: which function, and the slots of what it takes and gives, and of what is then freed."""

    function: int
    taken: tuple[int, ...]
    given: tuple[int, ...]
    freed: tuple[int, ...]


@dataclass(frozen=True)
class Plan:
    """Where values are while pieces run: constants first, then a call's tensors, what the head gives, what is made.

    Attributes:
        made: how many the pieces make. written: slots of inputs and constants that are written to.
        outputs: the slot of each output, or ``None``; then its value is in ``plain``.
    """

    steps: tuple[Step, ...]
    made: int
    written: tuple[int, ...]
    outputs: tuple[int | None, ...]
    plain: tuple[Any, ...]

    @classmethod
    def of(cls, graph: Graph, pieces: Sequence[Piece], written: Mapping[str, str]) -> Plan:
        """The plan of a graph that was cut into pieces.

        Args:
            written: names of values that the pieces do not give, but write to the named inputs and constants.
        """
        given = [node.name for node in (*constant_nodes(graph), *graph.inputs)]
        names = [*given, *(name for piece in pieces for name in piece.outputs)]
        place = {name: at for at, name in enumerate(names)}
        place |= {value: place[target] for value, target in written.items()}
        outputs = tuple(place[value.name] if isinstance(value, Node) else None for value in graph.outputs)
        last = {place[name]: at for at, piece in enumerate(pieces) for name in (*piece.inputs, *piece.outputs)}
        steps = tuple(
            Step(
                piece.like,
                tuple(place[name] for name in piece.inputs),
                tuple(place[name] for name in piece.outputs if name not in written),
                tuple(slot for slot, step in last.items() if step == at and slot not in outputs),
            )
            for at, piece in enumerate(pieces)
        )
        plain = tuple(None if isinstance(value, Node) else value for value in graph.outputs)
        return cls(steps, len(names) - len(given), tuple(place[value] for value in written), outputs, plain)


def constant_nodes(graph: Graph) -> list[Node]:
    """The nodes that name constants, in their order."""
    return [node for node in graph.nodes if node.op == "get_attr"]


class Program:
    """Compiled pieces that run by a plan.

    Args:
        codes: by the numbers of the pieces that they were made for. weights: the constants.
        head: computes what the pieces take beside the tensors of a call.
    """

    def __init__(
        self,
        plan: Plan,
        codes: Mapping[int, Generated | Eager],
        weights: Sequence[torch.Tensor],
        head: Eager | None = None,
    ) -> None:
        functions = {at: code.function if isinstance(code, Generated) else code for at, code in codes.items()}
        self._steps = [(functions[step.function], step.taken, step.given, step.freed) for step in plan.steps]
        self._codes = [codes[step.function] for step in plan.steps]
        self._weights, self._head = weights, head
        self._made = [None] * plan.made
        self._written, self._outputs = plan.written, tuple(zip(plan.outputs, plan.plain, strict=True))

    def run(self, tensors: Sequence[torch.Tensor]) -> Sequence[Any]:
        """All outputs of the graph for the tensors of a call, which are not written to."""
        values = self._values(tensors)
        for slot in self._written:
            values[slot] = values[slot].clone()
        return self._run(values, self._steps)

    def update(self, tensors: Sequence[torch.Tensor]) -> Sequence[Any]:
        """The same, where the ``written`` outputs are the tensors that were written to."""
        return self._run(self._values(tensors), self._steps)

    def watched(self, tensors: Sequence[torch.Tensor], watch: Watch) -> Sequence[Any]:
        """As :meth:`run`; ``watch`` sees each launch. What is written to is copied before the call begins."""
        given = [*self._weights, *tensors]
        for slot in self._written:
            given[slot] = given[slot].clone()
        first = 0 if self._head is None else self._head.count
        steps = []
        for code, (_, *slots) in zip(self._codes, self._steps, strict=True):
            steps.append((_watched(code, watch, first), *slots))
            first += code.count
        with watch.call():
            more = () if self._head is None else self._head.watched(given[len(self._weights) :], watch.launch)
            return self._run([*given, *more, *self._made], steps)

    def _values(self, tensors: Sequence[torch.Tensor]) -> list[Any]:
        given = () if self._head is None else self._head(*tensors)
        return [*self._weights, *tensors, *given, *self._made]

    def _run(self, values: list[Any], steps: Iterable[Any]) -> Sequence[Any]:
        for function, taken, given, freed in steps:
            for slot, value in zip(given, function(*[values[slot] for slot in taken]), strict=True):
                values[slot] = value
            for slot in freed:
                values[slot] = None
        return [plain if slot is None else values[slot] for slot, plain in self._outputs]


def _watched(code: Generated | Eager, watch: Watch, first: int) -> _Function:
    """A piece, the first of whose launches has the number ``first``."""
    return lambda *taken: code.watched(taken, lambda number: watch.launch(first + number))
