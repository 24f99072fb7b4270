"""How far units are followed, and why they cannot be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tests.helpers import normal
from tests.small import traced
from txgraph.ir import Graph, op_name
from txgraph.passes.sparsity.flow import UnitFlow, find_units
from txgraph.passes.sparsity.linears import is_linear
from txgraph.passes.sparsity.units import Units
from txgraph.rewrite import Reject

Tensor = torch.Tensor
aten = torch.ops.aten
X, W, V = normal(3, 8), normal(12, 8), normal(5, 12)


def flow_into_last(graph: Graph) -> UnitFlow | Reject:
    """The channels that the last linear reads, one each."""
    last = [n for n in graph.calls() if is_linear(n)][-1]
    hidden: Any = last.args[0]
    count = hidden.meta["val"].shape[-1]
    return find_units(graph, count, {hidden: Units(hidden.meta["val"].ndim - 1, torch.arange(count))})


def test_from_the_linears_that_make_them_to_those_that_read_them() -> None:
    def function(x: Tensor, w: Tensor, u: Tensor, b: Tensor, v: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        hidden = F.silu(F.linear(x, w)) * F.linear(x, u) + b
        return F.linear(hidden, v), F.linear(hidden * 2.0, t)

    graph = traced(function, X, w=W, u=W.flip(0), b=normal(12), v=V, t=V.sin())
    flow = flow_into_last(graph)
    assert isinstance(flow, UnitFlow)
    assert [op_name(n) for n in flow.units] == ["get_attr", "linear", "silu", "linear", "mul", "add", "mul"]
    assert [n.args[1].target for n in flow.made] == ["w", "u"]
    assert [op_name(value) for value, _ in flow.read] == ["add", "mul"]
    assert flow.readers == tuple(n for n in graph.calls() if is_linear(n))[2:]
    assert all(units.labels.equal(torch.arange(12)) for units in flow.units.values())


def test_a_linear_makes_units_in_part_of_its_rows() -> None:
    """A joint linear of gate and value: each channel has two rows."""

    def function(x: Tensor, w: Tensor, v: Tensor) -> Tensor:
        gate, value = aten.split.Tensor(F.linear(x, w), 6, -1)
        return F.linear(torch.sigmoid(gate) * value, v)

    flow = flow_into_last(traced(function, X, w=W, v=normal(5, 6)))
    assert isinstance(flow, UnitFlow)
    (made,) = flow.made
    assert flow.units[made].labels.tolist() == [*range(6), *range(6)]


REFUSED: dict[str, tuple[Callable[..., Any], str]] = {
    "an input": (lambda x, w, v: F.linear(x, v), "%x is an input of the graph"),
    "an output": (lambda x, w, v: (h := F.linear(x, w), F.linear(h, v)), "%linear is an output of the graph"),
    "mixed": (lambda x, w, v: F.linear(aten.softmax.int(F.linear(x, w), -1), v), "softmax mixes the units"),
    "another operator": (lambda x, w, v: F.linear(aten.cumsum.default(F.linear(x, w), -1), v), "cumsum is not known"),
    "joined": (lambda x, w, v: F.linear((h := F.linear(x, w)) + aten.flip.default(h, [-1]), v), "flip is not known"),
    "made of nothing": (
        lambda x, w, v: F.linear(F.linear(x, w) * aten.arange.default(12), v),
        "arange makes the units of nothing",
    ),
}


@pytest.mark.parametrize(("function", "reason"), REFUSED.values(), ids=REFUSED)
def test_why_units_stay(function: Callable[..., Any], reason: str) -> None:
    v = normal(5, 8) if reason.startswith("%x") else V
    flow = flow_into_last(traced(function, X, w=W, v=v))
    assert isinstance(flow, Reject)
    assert reason in flow.reason


def test_units_that_meet_as_others_stay() -> None:
    """A value plus itself with its halves exchanged: one place would be two channels."""

    def function(x: Tensor, w: Tensor, v: Tensor) -> Tensor:
        hidden = F.linear(x, w)
        first, second = aten.split.Tensor(hidden, 6, -1)
        return F.linear(aten.cat.default([second, first], -1) + hidden, v)

    flow = flow_into_last(traced(function, X, w=W, v=V))
    assert isinstance(flow, Reject)
    assert "joins a unit with another" in flow.reason
