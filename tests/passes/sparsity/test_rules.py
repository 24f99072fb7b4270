"""Where units go through an operator, against what really changes in its result when a unit changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.fx import Node

from tests.helpers import normal
from tests.small import traced
from txgraph.ir import Graph, interpret
from txgraph.passes.sparsity.rules import across
from txgraph.passes.sparsity.units import Units

Tensor = torch.Tensor
aten = torch.ops.aten
X = normal(2, 4, 6)
HEADS = normal(2, 4, 3, 6)  # [B, H, S, D]
OTHER = normal(4, 6)
KEYS = normal(2, 2, 5, 6)

KEEP = {  # axis of the units in the operand: axis, or None for no answer, in the result
    "an activation": (lambda x, y: F.gelu(x), X, {0: 0, 1: 1, 2: 2}),
    "broadcasting": (lambda x, y: aten.select.int(x, 0, 0) + y.expand(5, 4, 6), X, {1: 1, 2: 2}),
    "permute": (lambda x, y: aten.permute.default(x, [2, 0, -2]), X, {0: 1, 1: 2, 2: 0}),
    "transpose": (lambda x, y: aten.transpose.int(x, -1, 0), X, {0: 2, 1: 1, 2: 0}),
    "reshape": (lambda x, y: aten.reshape.default(x, [2, 2, 2, 6]), X, {0: 0, 1: None, 2: 3}),
    "merged heads": (lambda x, y: aten.reshape.default(aten.transpose.int(x, 1, 2), [2, 3, 24]), HEADS, {1: 2}),
    "unsqueeze": (lambda x, y: aten.unsqueeze.default(x, -2), X, {0: 0, 1: 1, 2: 3}),
    "squeeze": (lambda x, y: aten.squeeze.dim(aten.unsqueeze.default(x, 1), 1), X, {0: 0, 1: 1, 2: 2}),
    "select": (lambda x, y: aten.select.int(x, 1, 2), X, {0: 0, 1: None, 2: 1}),
    "slice": (lambda x, y: aten.slice.Tensor(x, 1, -3, 3), X, {0: 0, 1: 1, 2: 2}),
    "every second place": (lambda x, y: aten.slice.Tensor(x, 1, 0, 4, 2), X, {0: 0, 1: None}),
    "narrow": (lambda x, y: aten.narrow.default(x, 2, 1, 3), X, {0: 0, 1: 1, 2: 2}),
    "cat": (lambda x, y: aten.cat.default([y.expand(2, 4, 6), x], 1), X, {0: 0, 1: 1, 2: 2}),
    "cat of one twice": (lambda x, y: aten.cat.default([x, x], 1), X, {1: None}),
    "stack": (lambda x, y: aten.stack.default([x, x], 1), X, {0: 0, 1: 2, 2: 3}),
    "a cast": (lambda x, y: aten._to_copy.default(x, dtype=torch.float64), X, {0: 0, 1: 1, 2: 2}),
    "masked_fill": (lambda x, y: aten.masked_fill.Scalar(x, y > 1, 2.0), X, {0: 0, 1: 1, 2: 2}),
    "layer_norm": (lambda x, y: F.layer_norm(x, (6,)), X, {0: 0, 1: 1, 2: None}),
    "layer_norm of two axes": (lambda x, y: F.layer_norm(x, (4, 6)), X, {0: 0, 1: None, 2: None}),
    "softmax": (lambda x, y: aten.softmax.int(x, 1), X, {0: 0, 1: None, 2: 2}),
    "mean": (lambda x, y: aten.mean.dim(x, [1], True), X, {0: 0, 1: None, 2: 2}),
    "a mean without its axis": (lambda x, y: aten.mean.dim(x, [1]), X, {0: None, 2: None}),
    "linear": (lambda x, y: F.linear(x, y), X, {0: 0, 1: 1, 2: None}),
    "its weight": (lambda x, y: F.linear(y, x), normal(3, 6), {0: None}),
    "attention": (lambda x, y: F.scaled_dot_product_attention(x, x.sin(), x.cos()), HEADS, {1: 1, 2: None, 3: None}),
    "groups of heads": (
        lambda x, y: F.scaled_dot_product_attention(y, x, x, enable_gqa=True),
        KEYS,
        {1: 1, 2: None},
    ),
    "cumsum": (lambda x, y: aten.cumsum.default(x, 1), X, {1: None}),
}


def followed(graph: Graph, start: Units) -> Units | str | None:
    """The units of the graph's output, by the rules; a text, or ``None``, if a value on the way has none."""
    known: dict[Node, Units] = {graph.inputs[0]: start}
    for node in graph.calls():
        for operand in [n for n in node.all_input_nodes if n in known]:
            answer = across(node, operand, known[operand], forward=True)
            if not isinstance(answer, Units):
                return answer
            merged = known[node].merged(answer) if node in known else answer
            assert merged is not None
            known[node] = merged
    return known.get(graph.outputs[0])


def places(units: Units, unit: int, shape: torch.Size) -> Tensor:
    """Which elements of a value belong to a unit."""
    labels = units.labels.repeat(shape[units.axis] // len(units.labels))
    return (labels == unit).view([-1 if axis == units.axis else 1 for axis in range(len(shape))]).expand(shape)


@pytest.mark.parametrize(("function", "x", "axes"), KEEP.values(), ids=KEEP)
def test_a_unit_changes_what_the_rules_say(
    function: Callable[[Tensor, Tensor], Any], x: Tensor, axes: dict[int, int | None]
) -> None:
    other = HEADS if x is KEYS else OTHER
    graph = traced(function, x, other)
    before = interpret(graph, [x, other])[0]
    for axis, expected in axes.items():
        units = Units(axis, torch.arange(x.shape[axis]))
        answer = followed(graph, units)
        assert (answer.axis if isinstance(answer, Units) else None) == expected, answer
        if not isinstance(answer, Units):
            continue
        for unit in range(x.shape[axis]):
            moved = torch.where(places(units, unit, x.shape), x.sin() + 0.3, x)
            changed = interpret(graph, [moved, other])[0] != before
            theirs = places(answer, unit, before.shape)
            assert not (changed & ~theirs).any()
            assert bool(changed.any()) == bool(theirs.any())
