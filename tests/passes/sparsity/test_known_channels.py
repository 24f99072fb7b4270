"""What is said to be known of a channel is what it really is, whatever the input."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.fx import Node

from tests.helpers import normal
from tests.small import traced
from txgraph.ir import Graph, interpret
from txgraph.passes.sparsity.channels import HiddenChannels, hidden_channels
from txgraph.passes.sparsity.known_channels import known_values, names_read

Tensor = torch.Tensor
aten = torch.ops.aten
X = normal(3, 8)
ZERO = [1, 2, 7]  # rows of the first weight


def weights() -> dict[str, Tensor]:
    w, u, v = normal(12, 8), normal(12, 8).flip(0), normal(5, 12)
    w[ZERO], u[[2, 5]] = 0, 0
    return {"w": w, "b": normal(12), "u": u, "v": v}


def block_of(graph: Graph) -> HiddenChannels:
    (block,) = hidden_channels(graph)
    return block


def values_of(graph: Graph, x: Tensor) -> Mapping[str, Any]:
    """What every node gives."""
    seen: dict[str, Any] = {}

    def watch(node: Node, value: Any) -> Any:
        seen[node.name] = value
        return value

    interpret(graph, [x], watch)
    return seen


KNOWN: dict[str, tuple[Callable[..., Any], list[int]]] = {
    "a bias": (lambda x, w, b, u, v: F.linear(F.linear(x, w, b), v), ZERO),
    "none": (lambda x, w, b, u, v: F.linear(F.linear(x, w), v), ZERO),
    "an activation": (lambda x, w, b, u, v: F.linear(F.gelu(F.linear(x, w, b)), v), ZERO),
    "with the linear": (
        lambda x, w, b, u, v: F.linear(torch.ops.txgraph.linear_activation(x, w, b, "relu"), v),
        ZERO,
    ),
    "constants": (lambda x, w, b, u, v: F.linear(torch.sin(F.linear(x, w, b) * b + 0.5), v), ZERO),
    "a product with zero": (lambda x, w, b, u, v: F.linear(F.linear(x, w) * F.linear(x, u, b), v), ZERO),
    "a product": (lambda x, w, b, u, v: F.linear(F.linear(x, w, b) * F.linear(x, u, b), v), [2]),
    "a sum": (lambda x, w, b, u, v: F.linear(F.linear(x, w, b) + F.linear(x, u, b), v), [2]),
    "a view": (lambda x, w, b, u, v: F.linear(aten.reshape.default(F.linear(x, w, b), [3, 1, 12]), v), []),
    "what overflows": (lambda x, w, b, u, v: F.linear(torch.exp(F.linear(x, w, b) * 1e4), v), None),
}


@pytest.mark.parametrize(("function", "places"), KNOWN.values(), ids=KNOWN)
def test_known_values(function: Callable[..., Any], places: list[int] | None) -> None:
    held = weights()
    graph = traced(function, X, **held)
    block = block_of(graph)
    known = {node.name: value for node, value in known_values(graph, block.flow).items()}
    hidden = known.get(block.hidden, torch.full((12,), torch.nan))
    if places is None:  # infinity in float32: not known
        places = [at for at in ZERO if held["b"][at] < 0]
    assert hidden.isfinite().nonzero().flatten().tolist() == places
    for x in (X, X * 1000, -X):
        for name, value in values_of(graph, x).items():
            if name in known:
                finite = known[name].isfinite()
                real = value.double().expand(*value.shape[:-1], len(finite))[..., finite]
                torch.testing.assert_close(real, known[name][finite].expand_as(real), rtol=1e-6, atol=1e-6)


def test_the_constants_that_are_read() -> None:
    graph = traced(lambda x, w, b, u, v: F.linear(F.gelu(F.linear(x, w, b)) * 2.0, v), X, **weights())
    assert names_read(graph, block_of(graph).flow) == ["w", "b"]
