"""Hidden channels of a model: what some linears make only for others to read, found in its graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn
from torch.fx import Node

from txgraph.capture import CallSignature, capture
from txgraph.ir import Graph
from txgraph.ir.linears import Linears, names_of
from txgraph.lossy.calibration import Call
from txgraph.passes import normal_form
from txgraph.passes.sparsity.channels import HiddenChannels
from txgraph.passes.sparsity.channels import hidden_channels as flows
from txgraph.rewrite import PassContext

_LINEAR = torch.ops.aten.linear.default


@dataclass(frozen=True)
class Block:
    """Names of the modules that make some channels, and that read them."""

    before: tuple[str, ...]
    after: str


def hidden_channels(model: nn.Module, call: Call, linears: Mapping[str, nn.Module]) -> list[Block]:
    """The blocks ``linear -> what keeps channels apart -> linear`` of a model, with gates, too.

    Args:
        call: of the model, which is captured for it. linears: modules that may be part of a block, by name.

    Raises:
        CaptureFailed: see :mod:`txgraph.errors`. TypeError: the call does not fit the model's ``forward``.
    """
    signature = CallSignature.of(model)
    args, kwargs = signature.normalise(call.args, call.kwargs)
    graph, _ = normal_form().run(capture(model, args, kwargs).graph, PassContext())
    modules = {node.name: name for node in graph.calls() if (name := _module(graph, node)) in linears}
    uses = Counter(modules.values())
    found = []
    for block in flows(graph):
        *before, after = (modules.get(name, "") for name in (*block.before, *block.after))
        if len(block.after) == 1 and all(uses[name] == 1 for name in (*before, after)) and _are_whole(block):
            found.append(Block(tuple(before), after))
    return found


def _module(graph: Graph, node: Node) -> str:
    """Of a linear with a weight of its own, the name of the module that has it; else an empty text."""
    linears = Linears.of(node)
    if linears is None or node.target is not _LINEAR or linears.frozen_weights(graph) is None:
        return ""
    return names_of(linears.weights)[0].rpartition(".")[0]


def _are_whole(block: HiddenChannels) -> bool:
    """Whether all that each linear makes are these channels, in their order."""
    order = torch.arange(block.width)
    made = [(value.meta["val"].shape, block.flow.units[value]) for value in block.flow.made]
    return all(shape[units.axis] == block.width and units.labels.equal(order) for shape, units in made)
