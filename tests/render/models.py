"""Views made by hand, and small models with their graph before and after some passes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from tests.small import Copy, graph_of
from txgraph import PassContext, Pipeline, Rewrite
from txgraph.ir import Graph
from txgraph.passes.canonicalize.remove_identities import RemoveIdentities
from txgraph.passes.fuse.fuse_linear_activation import FuseLinearActivation
from txgraph.passes.fuse.fuse_shared_input_linears import FuseSharedInputLinears
from txgraph.render.drawing import Drawing, draw
from txgraph.render.view import Arrow, Op, View

PASSES = Pipeline((RemoveIdentities(), FuseSharedInputLinears(), FuseLinearActivation()))
X = torch.ones(2, 4)


def op(name: str, operator: str = "relu", *inputs: str, path: str = "", type: str = "f32[4]", **more: Any) -> Op:
    """A drawn node with the fields that a test cares for."""
    fields: dict[str, Any] = {
        "name": name,
        "op": operator,
        "kind": "placeholder" if operator == "input" else "call_function",
        "path": tuple(path.split(".")) if path else (),
        "type": type,
        "arrows": tuple(Arrow(source, type) for source in inputs),
        "constants": (),
        "literals": (),
        "text": name,
        "location": "",
        "code": "",
        "passes": (),
        "is_view": False,
    }
    return Op(**{**fields, **more})


def view(*ops: Op) -> View:
    return {each.name: each for each in ops}


@dataclass(frozen=True)
class Stages:
    before: Graph
    after: Graph
    rewrites: Sequence[Rewrite]

    def draw(self) -> Drawing:
        return draw(self.before, self.after, self.rewrites)


def stages(model: nn.Module, *args: Any, passes: Pipeline = PASSES, **kwargs: Any) -> Stages:
    """The graph of a model before and after some passes, with the records of what was rewritten."""
    before = graph_of(model.eval(), *args, **kwargs)
    after, records = passes.run(before, PassContext(fused_activations=frozenset({"gelu"})))
    return Stages(before, after.copy(), [r for record in records for r in record.rewrites])


class Block(nn.Module):
    """Two linears of one input, one with an activation, a copy and a residual."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.gate = nn.Linear(4, width)
        self.up = nn.Linear(4, width)
        self.down = nn.Linear(width, 4)
        self.out = nn.Linear(4, 4)
        self.copy = Copy()

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        hidden = self.down(self.gate(x) * self.up(x))
        if mask is not None:
            hidden = hidden * mask
        return x + self.copy(torch.nn.functional.gelu(self.out(hidden)))


class Stack(nn.Module):
    """Blocks one after the other; ``widths`` are of their inner layers."""

    def __init__(self, *widths: int) -> None:
        super().__init__()
        self.embed = nn.Linear(4, 4)
        self.layers = nn.ModuleList(Block(width) for width in widths)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x)
        for layer in self.layers:
            x = layer(x)
        return x.tanh()
