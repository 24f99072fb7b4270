"""Faults around CUDA graphs: what is copied, what is given, and what is written in place. A stand-in replays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any
from unittest import mock

import torch
from torch import nn

import txgraph
from tests.mutants.edits import always, numbers
from tests.mutants.mutant import OPTIONS, Fault, Mutant, Scenario, Twins
from tests.recorders import Running, StandIn, WritesInPlace
from txgraph import compile
from txgraph.backends import cuda_graphs
from txgraph.backends.cuda_graphs import Replayed

Tensor = torch.Tensor
X, Y = numbers((4, 8), (4, 8))


class Product(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.sin(x) * y


def _recorded(steps: Callable[[Twins], None]) -> Callable[[Twins], None]:
    """The same steps, with a model whose graphs are recorded, by a backend that writes in place."""

    def all_steps(twins: Twins) -> None:
        with (
            mock.patch.object(compile, "recorder_for", return_value=StandIn()),
            mock.patch.object(compile, "choose_backend", return_value=WritesInPlace()),
        ):
            twins.fast = txgraph.optimize(
                twins.original, backend="reference", options={**OPTIONS, "cuda_graphs": True, "cache": False}
            )
            steps(twins)

    return all_steps


def _differ(twins: Twins, what: str, ours: Tensor, wanted: Tensor) -> None:
    twins.expect(f"numbers of {what} that differ", int((~torch.isclose(ours, wanted)).sum()), 0)


def _three_calls(twins: Twins) -> None:
    first = twins.fast(x=X, y=Y)
    held = first.clone()
    twins.call(x=X, y=Y)
    twins.call(x=Y, y=X)
    _differ(twins, "the first output", first, held)


def _two_texts(twins: Twins) -> None:
    with torch.no_grad():
        for _ in range(2):
            cache, expected = torch.zeros(4, 8), torch.zeros(4, 8)
            for _ in range(3):
                _differ(twins, "an output", twins.fast(X, cache), twins.eager(X, expected))
                _differ(twins, "a cache", cache, expected)
    _differ(twins, "a buffer", *(model.calls for model in (twins.original, twins.eager)))  # type: ignore[arg-type]


RECORDED = Scenario("three calls of a recorded graph", Product, _recorded(_three_calls))
WRITTEN = Scenario("two caches that a recorded graph writes", Running, _recorded(_two_texts))
_COPIED: list[Sequence[Any]] = []


def _copied_twice(original: Any, inputs: Sequence[Any], tensors: Sequence[Tensor]) -> None:
    """When it is recorded, and when that is checked."""
    if sum(each is inputs for each in _COPIED) < 2:
        original(inputs, tensors)
    _COPIED.append(inputs)


def _warmed_up_by_writing(original: Any, self: Replayed, *rest: Any) -> Any:
    program = self._program
    self._program = replace(program, run=program.update or program.run)
    try:
        return original(self, *rest)
    finally:
        self._program = program


RECORDINGS = (
    Mutant(
        "inputs not copied",
        "later calls are answered with the inputs of the first",
        Fault(cuda_graphs, "_copy", _copied_twice),
        RECORDED,
    ),
    Mutant(
        "outputs not cloned",
        "what a call gave is overwritten by the next one",
        Fault(Replayed, "_given", lambda original, self, at, value, tensors: value),
        RECORDED,
    ),
    Mutant(
        "recording that holds nothing",
        "a replay does nothing",
        Fault(StandIn, "fill", always(None)),
        RECORDED,
    ),
    Mutant(
        "addresses not compared",
        "a cache is written where another one was when that was recorded",
        Fault(Replayed, "_fitting", lambda original, self, *rest: self._recording or original(self, *rest)),
        WRITTEN,
    ),
    Mutant(
        "warmed up by writing",
        "recording a program writes to a cache once more",
        Fault(Replayed, "_record", _warmed_up_by_writing),
        WRITTEN,
    ),
    Mutant(
        "check that leaves a mark",
        "what the check of a recording wrote to a buffer stays there",
        Fault(Replayed, "run", lambda original, self, tensors: self._call([t.clone() for t in tensors], at_once=True)),
        WRITTEN,
    ),
)
