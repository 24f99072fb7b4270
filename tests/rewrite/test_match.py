"""A match gives a rule its values, and records which constants it looked at."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.small import find, graph_of, module
from txgraph import Match, PassContext
from txgraph.ir.known_values import KnownValues
from txgraph.rewrite import NearMiss

X = torch.ones(2, 4)


@pytest.fixture
def match() -> Match:
    def forward(x: torch.Tensor) -> torch.Tensor:
        return x * model.w + 1

    model = module(forward, w=nn.Parameter(torch.full((4,), 3.0)))
    graph = graph_of(model, X)
    add, mul = find(graph, "add"), find(graph, "mul")
    bound = {"x": graph.inputs[0], "w": mul.args[1], "one": 1}
    return Match(add, (add, mul), bound, graph, PassContext(), KnownValues(graph))


def test_values(match: Match) -> None:
    assert match["x"].name == "x"
    assert match["one"] == 1
    assert match.get("w") is match["w"]
    assert match.get("absent") is None
    assert match.get("absent", 7) == 7
    with pytest.raises(KeyError, match="absent"):
        match["absent"]


def test_types(match: Match) -> None:
    assert str(match.type("x")) == "f32[2, 4]"
    assert match.type("w").rank == 1
    with pytest.raises(TypeError, match="'one' is bound to 1, which is not a tensor"):
        match.type("one")


def test_reading_a_constant_freezes_it(match: Match) -> None:
    assert match.graph.constants.frozen_values() == frozenset()
    assert match.constant("w").tolist() == [3.0] * 4
    assert match.graph.constants.frozen_values() == {"w"}


@pytest.mark.parametrize("name", ["x", "one"])
def test_what_is_no_constant(match: Match, name: str) -> None:
    with pytest.raises(TypeError, match=f"'{name}' is bound to .*, which is not a constant"):
        match.constant(name)


def test_a_near_miss_tells_where(match: Match) -> None:
    mul = match.nodes[1]
    miss = NearMiss.at("fuse-it", match.root, "the reason", mul, depth=2)
    assert (miss.rule, miss.root, miss.depth, miss.reason) == ("fuse-it", "add", 2, "the reason")
    assert miss.location.startswith("test_match.py:")
    assert str(miss) == f"%add: the reason [%mul = mul in ({miss.location})]"
    assert NearMiss.at("fuse-it", match.root, "the reason").node.startswith("%add = add")
