"""A part of a graph computes alone what it computes in the graph."""

from __future__ import annotations

import pytest
import torch

from tests.helpers import normal
from tests.small import find, traced
from txgraph.ir import check_spec, extract, interpret

Tensor = torch.Tensor
X, W = normal(2, 4), normal(4)


def function(x: Tensor, w: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    y = (x.sin() * w).exp()
    return y + v, y.neg()


GRAPH = traced(function, X, w=W, v=W + 1)
SIN, MUL, EXP, ADD, NEG = (find(GRAPH, name).name for name in ("sin", "mul", "exp", "add", "neg"))


def test_what_is_used_outside_comes_out_and_what_comes_from_outside_goes_in() -> None:
    part = extract(GRAPH, [MUL, EXP])
    check_spec(part)
    assert [n.name for n in part.inputs] == [SIN]
    assert list(part.constants) == ["w"]
    assert [n.name for n in part.outputs] == [EXP]
    (result,) = interpret(part, [X.sin()])
    assert result.equal((X.sin() * W).exp())


def test_several_outputs_and_those_that_nothing_uses() -> None:
    part = extract(GRAPH, [SIN, MUL, EXP, NEG])
    assert [n.name for n in part.outputs] == [EXP, NEG]
    assert extract(GRAPH, []).outputs == ()


def test_constants_as_inputs() -> None:
    part = extract(GRAPH, [MUL, EXP], inputs=["w", SIN], outputs=[MUL, EXP])
    check_spec(part)
    assert [n.name for n in part.inputs] == ["w", SIN]
    assert not part.constants
    product, exponential = interpret(part, [W * 2, X])
    assert product.equal(X * W * 2)
    assert exponential.equal((X * W * 2).exp())


def test_a_value_that_is_nowhere() -> None:
    with pytest.raises(KeyError):
        extract(GRAPH, [MUL], inputs=["w"])


def test_the_graph_stays_as_it_is() -> None:
    before = str(GRAPH)
    part = extract(GRAPH, [SIN, MUL])
    part.fx.erase_node(part.output)
    assert str(GRAPH) == before
    assert set(GRAPH.constants) == {"w", "v"}
