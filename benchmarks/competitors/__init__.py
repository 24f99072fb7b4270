"""What is compared. A competitor is one class in one module, so that a worker imports no other's library."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import nn

Run = Callable[[Mapping[str, torch.Tensor]], Any]


class Competitor(Protocol):
    """Makes a model ready to run. Its library is imported with its module, outside all timing."""

    @property
    def name(self) -> str:
        """How users name it."""

    def build(self, model: nn.Module, inputs: Mapping[str, torch.Tensor]) -> Run:
        """Compile ``model`` for inputs like these; what may be left to the first call counts as cold time, too.

        The returned function takes the inputs. Its outputs are tensors or arrays, in any nesting, in the order
        in which eager gives them.
        """

    def details(self) -> Mapping[str, Any]:
        """Whatever is worth keeping in the JSON: plain data; asked for after the first call."""


COMPETITORS: Mapping[str, str] = {
    "eager": "benchmarks.competitors.eager:Eager",
    "torch.compile": "benchmarks.competitors.torch_compile:TorchCompile",
    "torch.compile-max-autotune": "benchmarks.competitors.torch_compile:TorchCompileMaxAutotune",
    "txgraph": "benchmarks.competitors.txgraph:Txgraph",
}
DEFAULT_COMPETITORS = ("eager", "torch.compile", "txgraph")
