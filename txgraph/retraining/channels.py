"""Hidden channels of a model: what some linears make only for others to read, found in its graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch._ops import OpOverload
from torch.fx import Node

from txgraph.capture import CallSignature, capture
from txgraph.ir import Graph
from txgraph.ir.linears import Linears, names_of
from txgraph.lossy.calibration import Call
from txgraph.passes import normal_form
from txgraph.rewrite import PassContext

_LINEAR = torch.ops.aten.linear.default


@dataclass(frozen=True)
class Block:
    """Names of the modules that make some channels, and that read them."""

    before: tuple[str, ...]
    after: str


def hidden_channels(model: nn.Module, call: Call, linears: Mapping[str, nn.Module]) -> list[Block]:
    """The blocks ``linear -> element by element -> linear`` of a model, with gates, too.

    Args:
        call: of the model, which is captured for it. linears: modules that may be part of a block, by name.

    Raises:
        CaptureFailed: see :mod:`txgraph.errors`. TypeError: the call does not fit the model's ``forward``.
    """
    signature = CallSignature.of(model)
    args, kwargs = signature.normalise(call.args, call.kwargs)
    graph, _ = normal_form().run(capture(model, args, kwargs).graph, PassContext())
    modules = {node: name for node in graph.calls() if (name := _module(graph, node)) in linears}
    uses: dict[str, int] = {}
    for name in modules.values():
        uses[name] = uses.get(name, 0) + 1
    found = [_block(graph, node, modules) for node in modules]
    return [block for block in found if block is not None and all(uses[n] == 1 for n in (*block.before, block.after))]


def _module(graph: Graph, node: Node) -> str:
    """Of a linear with a weight of its own, the name of the module that has it; else an empty text."""
    linears = Linears.of(node)
    if linears is None or node.target is not _LINEAR or linears.frozen_weights(graph) is None:
        return ""
    return names_of(linears.weights)[0].rpartition(".")[0]


def _block(graph: Graph, reader: Node, modules: Mapping[Node, str]) -> Block | None:
    """What makes the channels that a linear reads, if it alone reads them."""
    makers: dict[Node, str] = {}
    between = {reader}
    pending: list[Any] = [reader.args[0]]
    width = pending[0].meta["val"].shape[-1]
    while pending:
        value = pending.pop()
        if value in between or value.op == "get_attr":
            continue
        held = value.meta["val"]
        if value.op != "call_function" or not isinstance(held, torch.Tensor) or held.shape[-1:] != (width,):
            return None
        between.add(value)
        if value in modules:
            makers[value] = modules[value]
        elif isinstance(value.target, OpOverload) and torch.Tag.pointwise in value.target.tags:
            pending += value.all_input_nodes
        else:
            return None
    if not makers or any(user not in between for value in between - {reader} for user in value.users):
        return None
    return Block(tuple(makers.values()), modules[reader])
