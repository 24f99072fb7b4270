"""Views made by hand, and small models with their graph before and after some passes."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import nn
from torch.fx import Node

from tests.small import Copy, graph_of
from txgraph import PassContext, Pipeline, Rewrite
from txgraph.ir import Graph, GraphBuilder, op_name
from txgraph.passes.canonicalize.remove_identities import RemoveIdentities
from txgraph.passes.fuse.fuse_linear_activation import FuseLinearActivation
from txgraph.render import Stages
from txgraph.render.view import Arrow, Op, View
from txgraph.rewrite import Pass, replace

X = torch.ones(2, 4)


class JoinLinears(Pass):
    """Linears of one input get one weight, made of theirs, and the pieces of one result."""

    def run(self, graph: Graph, context: PassContext) -> list[Rewrite]:
        groups: dict[Any, list[Node]] = {}
        for node in graph.calls():
            if op_name(node) == "linear":
                groups.setdefault(node.args[0], []).append(node)
        return [self._join(graph, group) for group in groups.values() if len(group) > 1]

    def _join(self, graph: Graph, group: list[Node]) -> Rewrite:
        g = GraphBuilder(graph, group[0], like=group, made_by=self.name)
        joint: list[Node] = []
        for at in (1, 2):
            names = [str(node.args[at].target) for node in group]  # type: ignore[union-attr]
            tensors = [graph.constants[name] for name in names]
            joint.append(g.constant("_and_".join(names), torch.cat(tensors), names))
        sizes = [len(tensor) for tensor in tensors]
        parts = g.aten.split_with_sizes(g.aten.linear(group[0].args[0], *joint), sizes, -1)
        pieces = {node: g.call(operator.getitem, parts, at) for at, node in enumerate(group)}
        return replace(self.name, pieces, g.made)


PASSES = Pipeline((RemoveIdentities(), JoinLinears(), FuseLinearActivation()))


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
