"""A row and competitors that worker processes of the test look up by name."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from txgraph import bench
from txgraph.bench import Inputs, Row, Run, ZeroPadding


def make() -> tuple[nn.Module, Inputs]:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 8), nn.GELU()).eval(), {"input": torch.randn(4, 8)}


def make_padded() -> tuple[nn.Module, Inputs]:
    return nn.Identity(), {"input": torch.arange(1.0, 9.0).reshape(2, 4, 1)}


class Counts(nn.Module):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return torch.arange(4) + input


class Scaled(nn.Module):
    def forward(self, input: torch.Tensor, factor: float) -> torch.Tensor:
        return input * factor


class Single(nn.Module):
    """Its own constant is float32 in any case."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return input @ torch.eye(4)


def scaled_row(size: int) -> Row:
    return Row("scaled", lambda: (Scaled(), {"input": torch.ones(size), "factor": 2.0}))


def fail() -> tuple[nn.Module, Inputs]:
    raise RuntimeError("not today")


row = Row("tiny", make)
padded_row = Row("padded", make_padded, valid=lambda inputs: VALID)
decoding_row = Row("decoding", lambda: (Counts(), {"input": torch.tensor([1])}), new_tokens=4)
failing_row = Row("failing", fail)
single_row = Row("single", lambda: (Single(), {"input": torch.ones(3, 4)}))
VALID = torch.tensor([[True, True, True, True], [True, True, False, False]])


class Competitor(bench.Competitor):
    def details(self) -> dict[str, Any]:
        return {"kept": True}


class Wrong(Competitor):
    name = "wrong"

    def __init__(self, by: float = 0.5) -> None:
        self._by = by

    def build(self, model: nn.Module, inputs: Mapping[str, Any]) -> Run:
        return lambda inputs: model(**inputs) + self._by


class WrongLater(Competitor):
    """Right at first; wrong once it has been called often."""

    name = "wrong later"

    def build(self, model: nn.Module, inputs: Mapping[str, Any]) -> Run:
        calls = iter(range(1_000_000))
        return lambda inputs: model(**inputs) * (1 if next(calls) < 3 else 2)


class Arrays(Competitor):
    """Gives NumPy arrays, as runtimes outside torch do."""

    name = "arrays"
    search_seconds = 7.0

    def build(self, model: nn.Module, inputs: Mapping[str, Any]) -> Run:
        return lambda inputs: [model(**inputs).numpy()]


class Raises(Competitor):
    name = "raises"

    def build(self, model: nn.Module, inputs: Mapping[str, Any]) -> Run:
        raise RuntimeError("no such kernel\nand more words")


class Dies(Competitor):
    name = "dies"

    def build(self, model: nn.Module, inputs: Mapping[str, Any]) -> Run:
        os._exit(3)


class Sleeps(Competitor):
    name = "sleeps"

    def build(self, model: nn.Module, inputs: Mapping[str, Any]) -> Run:
        time.sleep(600)
        return lambda inputs: None


class AtPadding(Competitor):
    """Right at valid positions; elsewhere whatever the class says."""

    elsewhere = 0.0

    def build(self, model: nn.Module, inputs: Mapping[str, Any]) -> Run:
        return lambda inputs: model(**inputs).where(VALID[..., None], self.elsewhere)


class WrongAtPadding(AtPadding):
    name, elsewhere = "wrong at padding", -1.0


class Zeros(AtPadding, ZeroPadding):
    name = "zeros"


class ZerosNotKept(AtPadding, ZeroPadding):
    name, elsewhere = "zeros not kept", 1.0
