"""Run compiled pieces one after the other; values are freed after their last use."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.fx import Node

from txgraph.backends.inductor.pieces import Piece
from txgraph.ir import Graph

_Function = Callable[..., Sequence[Any]]


class Program:
    """Compiled pieces and the places of their values.

    Args:
        graph: what was cut into pieces: its inputs are those of a call, then those that ``head`` gives for it.
        compiled: a function for each piece, of its inputs in order.
        written: names of values that the pieces do not give, but write to the named inputs and constants.
    """

    def __init__(
        self,
        graph: Graph,
        pieces: Sequence[Piece],
        compiled: Sequence[_Function],
        head: Callable[[Sequence[torch.Tensor]], Sequence[Any]],
        written: Mapping[str, str] | None = None,
    ) -> None:
        written = written or {}
        constants = [node for node in graph.nodes if node.op == "get_attr"]
        names = [node.name for node in (*constants, *graph.inputs)]
        names += [name for piece in pieces for name in piece.outputs]
        place = {name: at for at, name in enumerate(names)}
        place |= {value: place[target] for value, target in written.items()}
        self._written = [place[value] for value in written]
        self._weights = [graph.constants[str(node.target)] for node in constants]
        self._made = [None] * (len(names) - len(constants) - len(graph.inputs))
        self._head = head
        self._outputs = [place[value.name] if isinstance(value, Node) else None for value in graph.outputs]
        self._plain = list(graph.outputs)
        last = {place[name]: at for at, piece in enumerate(pieces) for name in (*piece.inputs, *piece.outputs)}
        kept = {at for at in self._outputs if at is not None}
        self._steps = [
            (
                function,
                [place[name] for name in piece.inputs],
                [place[name] for name in piece.outputs if name not in written],
                [slot for slot, step in last.items() if step == at and slot not in kept],
            )
            for at, (piece, function) in enumerate(zip(pieces, compiled, strict=True))
        ]

    def run(self, tensors: Sequence[torch.Tensor]) -> Sequence[Any]:
        """All outputs of the graph for the tensors of a call, which are not written to."""
        values = self._values(tensors)
        for slot in self._written:
            values[slot] = values[slot].clone()
        return self._run(values)

    def update(self, tensors: Sequence[torch.Tensor]) -> Sequence[Any]:
        """The same, where the ``written`` outputs are the tensors that were written to."""
        return self._run(self._values(tensors))

    def _values(self, tensors: Sequence[torch.Tensor]) -> list[Any]:
        return [*self._weights, *tensors, *self._head(tensors), *self._made]

    def _run(self, values: list[Any]) -> Sequence[Any]:
        for function, taken, given, freed in self._steps:
            for slot, value in zip(given, function(*[values[slot] for slot in taken]), strict=True):
                values[slot] = value
            for slot in freed:
                values[slot] = None
        return [plain if slot is None else values[slot] for slot, plain in zip(self._outputs, self._plain, strict=True)]
