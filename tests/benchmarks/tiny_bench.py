"""A row and competitors that worker processes of the test look up by name."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from benchmarks.competitors import Run
from benchmarks.rows import Inputs, Row


def make() -> tuple[nn.Module, Inputs]:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 8), nn.GELU()).eval(), {"input": torch.randn(4, 8)}


row = Row("tiny", make)


class Competitor:
    name = ""

    def details(self) -> dict[str, Any]:
        return {"kept": True}


class Wrong(Competitor):
    name = "wrong"

    def build(self, model: nn.Module, inputs: Mapping[str, torch.Tensor]) -> Run:
        return lambda inputs: model(**inputs) + 0.5


class WrongLater(Competitor):
    """Right at first; wrong once it has been called often."""

    name = "wrong later"

    def build(self, model: nn.Module, inputs: Mapping[str, torch.Tensor]) -> Run:
        calls = iter(range(1_000_000))
        return lambda inputs: model(**inputs) * (1 if next(calls) < 3 else 2)


class Arrays(Competitor):
    """Gives NumPy arrays, as runtimes outside torch do."""

    name = "arrays"

    def build(self, model: nn.Module, inputs: Mapping[str, torch.Tensor]) -> Run:
        return lambda inputs: [model(**inputs).numpy()]


class Raises(Competitor):
    name = "raises"

    def build(self, model: nn.Module, inputs: Mapping[str, torch.Tensor]) -> Run:
        raise RuntimeError("no such kernel\nand more words")


class Dies(Competitor):
    name = "dies"

    def build(self, model: nn.Module, inputs: Mapping[str, torch.Tensor]) -> Run:
        os._exit(3)
