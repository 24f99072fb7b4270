"""Small modules and graphs for the tests of the core, and the one way to compare with eager."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.fx import Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from txgraph import Pass, PassContext, Pipeline, Rewrite
from txgraph.capture import capture
from txgraph.ir import ConstantStore, Graph, check_spec, op_name
from txgraph.passes.canonicalize.remove_identities import RemoveIdentities
from txgraph.passes.fold.eliminate_common_subexpressions import EliminateCommonSubexpressions
from txgraph.passes.fold.eliminate_dead_code import EliminateDeadCode
from txgraph.passes.fold.fold_constants import FoldConstants
from txgraph.verify import check_gates, reference

# Passes that keep every bit, so that results can be compared exactly.
BITWISE = Pipeline((RemoveIdentities(), FoldConstants(), EliminateCommonSubexpressions(), EliminateDeadCode()))


class Linear(nn.Module):
    """One linear layer with seeded weights."""

    def __init__(self, size: int = 4) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(size, size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


class Copy(nn.Module):
    """What ``remove-identities`` removes."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.clone()


class MLP(nn.Module):
    """Two linears with a gelu between them, a dropout and a copy; made in eval mode."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.up = nn.Linear(4, width)
        self.down = nn.Linear(width, 4)
        self.dropout = nn.Dropout(0.1)
        self.copy = Copy()
        self.eval()

    def forward(self, x: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
        hidden = torch.nn.functional.gelu(self.up(x))
        return self.copy(self.dropout(self.down(hidden))) * scale


class Encoder(nn.Module):
    """One layer of BERT by hand: whatever rules look for, in little. Made in eval mode."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words, self.positions = nn.Embedding(100, width), nn.Embedding(64, width)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.norm1, self.norm2 = (nn.LayerNorm(width, eps=1e-12) for _ in range(2))
        self.pooler = nn.Linear(width, width)
        self.dropout = nn.Dropout(0.1)
        self.eval()

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.words(input_ids) + self.positions(torch.arange(input_ids.shape[1]))
        q, k, v = (part(x).view(*x.shape[:2], 2, -1).transpose(1, 2) for part in (self.query, self.key, self.value))
        mask = None if attention_mask is None else attention_mask[:, None, None, :].bool()
        y = nn.functional.scaled_dot_product_attention(q, k, v, mask).transpose(1, 2).reshape(x.shape)
        x = self.norm1(self.dropout(self.out(y)) + x)
        x = self.norm2(self.dropout(self.down(nn.functional.gelu(self.up(x)))) + x)
        return x, torch.tanh(self.pooler(x[:, 0]))


def module(function: Callable[..., Any], **parts: Any) -> nn.Module:
    """A module that computes ``function`` and holds ``parts`` (parameters, buffers, submodules)."""
    made = nn.Module()
    for name, part in parts.items():
        setattr(made, name, part)
    made.forward = function
    return made.eval()


def graph_of(model: nn.Module | Callable[..., Any], *args: Any, dynamic_shapes: Any = None, **kwargs: Any) -> Graph:
    """The captured graph of a module or function."""
    captured = model if isinstance(model, nn.Module) else module(model)
    return capture(captured, args, kwargs, dynamic_shapes).graph


def traced(function: Callable[..., Any], *inputs: torch.Tensor, **constants: torch.Tensor) -> Graph:
    """The graph of a function: without sizes that vary and origins, but made in no time.

    The function's first parameters are its inputs; ``constants`` are its other parameters, in their order.
    """
    examples = [t.clone() for t in (*inputs, *constants.values())]  # one tensor twice would be one input
    fx = make_fx(function, tracing_mode="fake", pre_dispatch=True)(*examples).graph
    placeholders = [n for n in fx.nodes if n.op == "placeholder"]
    for node, name in zip(placeholders, inspect.signature(function).parameters, strict=True):
        if name in constants:
            with fx.inserting_before(node):
                attribute = fx.create_node("get_attr", name)
            attribute.meta["val"] = node.meta["val"]
            node.replace_all_uses_with(attribute)
            fx.erase_node(node)
        else:
            node._rename(name)
            node.target = name
    fx.output_node().args = (tuple(pytree.tree_leaves(fx.output_node().args)),)
    graph = Graph(fx, ConstantStore(dict(constants))).copy()
    graph.eliminate_dead_code()
    check_spec(graph)
    return graph


def apply(rule: Pass, graph: Graph, context: PassContext | None = None) -> tuple[Graph, list[Rewrite]]:
    """What a pass makes of a graph; holds it to the spec and to saying the truth about its changes."""
    after = graph.copy()
    rewrites = rule.run(after, context or PassContext())
    assert rewrites or str(after) == str(graph), "changed, but says it did not"
    after.eliminate_dead_code()
    check_spec(after, graph)
    return after, rewrites


def find(graph: Graph, name: str) -> Node:
    """The only node of that operator."""
    (node,) = [n for n in graph.nodes if op_name(n) == name]
    return node


def assert_as_eager(output: Any, model: nn.Module, *args: Any, **kwargs: Any) -> None:
    """The output has eager's structure and passes the gates on every leaf."""
    truth = reference(model, args, kwargs)
    leaves, spec = pytree.tree_flatten(output)
    assert spec == truth.spec
    failed = [str(gate) for gate in check_gates(leaves, truth.eager, truth.oracle) if not gate.passed]
    assert not failed, failed


def bits(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor's bits, so that -0.0 and 0.0 differ and a NaN equals itself."""
    return tensor.detach().contiguous().flatten().view(torch.uint8)
