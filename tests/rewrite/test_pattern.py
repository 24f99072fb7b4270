"""The pattern language: what matches, what is bound, and what the deepest failure says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.fx import Node

from tests.small import traced
from txgraph.ir import Graph, GraphBuilder, op_name
from txgraph.rewrite import Pattern, PatternFactory
from txgraph.rewrite.pattern import COMMUTATIVE, Failure, State

X = torch.ones(4, 4)
p = PatternFactory()


def match(pattern: Pattern, function: Callable[..., Any]) -> State | str:
    """The first match at the root of a function of x and y, or why there is none."""
    return match_at(pattern, traced(function, X, X).outputs[0])


def match_at(pattern: Pattern, root: Node) -> State | str:
    failure = Failure()
    for state in pattern.match(root, State(), failure):
        return state
    return failure.reason


def names(state: State | str) -> dict[str, str]:
    """The bindings, nodes by their names."""
    assert isinstance(state, State), state
    return {k: v.name if isinstance(v, Node) else v for k, v in state.bound.items()}


def test_operators_bind_their_arguments() -> None:
    found = match(p.aten.sub(p.aten.exp(p.any("a")), p.any("b")), lambda x, y: x.exp() - y)
    assert names(found) == {"a": "x", "b": "y"}
    assert [op_name(n) for n in found.nodes] == ["sub", "exp"]


def test_any_overload_of_the_operator_matches() -> None:
    pattern = p.aten.pow(p.any("x"), p.any("y"))
    assert names(match(pattern, lambda x, y: x**y)) == {"x": "x", "y": "y"}
    assert names(match(pattern, lambda x, y: x**2)) == {"x": "x", "y": 2}


def test_another_operator() -> None:
    found = match(p.aten.sub(p.aten.exp(p.any()), p.any()), lambda x, y: x.neg() - y)
    assert found.startswith("expected exp, found %neg = neg")


def test_a_node_can_be_bound_by_name() -> None:
    found = match(p.aten.exp(p.aten.neg(p.any(), name="inner"), name="outer"), lambda x, y: x.neg().exp())
    assert names(found) == {"outer": "exp", "inner": "neg"}


def test_constants() -> None:
    pattern = p.aten.mul(p.any("x"), p.const("w"))
    root = traced(lambda x, w: x * w, X, w=torch.ones(4)).outputs[0]
    assert names(match_at(pattern, root)) == {"x": "x", "w": "w"}
    assert match(pattern, lambda x, y: x * y).startswith("expected a constant for 'w', found %")


def test_numbers() -> None:
    pattern = p.aten.mul(p.any("x"), p.number("n"))
    assert names(match(pattern, lambda x, y: x * 0.5)) == {"x": "x", "n": 0.5}
    assert names(match(pattern, lambda x, y: x * 2)) == {"x": "x", "n": 2}
    assert match(pattern, lambda x, y: x * y).startswith("expected a number for 'n', found %")
    keepdim = p.aten.mean(p.any(), p.any(), p.number())
    assert match(keepdim, lambda x, y: x.mean(0, keepdim=True)) == "expected a number, found True"


@pytest.mark.parametrize(
    ("literal", "given", "matches"),
    [(2, 2, True), (2, 2.0, True), (2, 3, False), (0.5, 0.5, True), (1, True, False)],
)
def test_literal_numbers(literal: float, given: float, matches: bool) -> None:
    found = match(p.aten.mul(p.any(), literal), lambda x, y: x * given)
    assert isinstance(found, State) == matches
    if not matches:
        assert found == f"expected {literal!r}, found {given!r}"


def test_literals_do_not_match_nodes() -> None:
    assert match(p.aten.sub(p.any(), 2), lambda x, y: x - y) == "expected 2, found %y = placeholder"


def test_arguments_that_are_lists() -> None:
    pattern = p.aten.mean(p.any("x"), [-1], p.any("keep"))
    assert names(match(pattern, lambda x, y: x.mean(-1, keepdim=True))) == {"x": "x", "keep": True}
    assert match(pattern, lambda x, y: x.mean(0, keepdim=True)) == "expected [-1], found [0]"
    assert match(pattern, lambda x, y: x.mean((0, -1), keepdim=True)) == "expected [-1], found [0, -1]"
    bound = names(match(p.aten.mean(p.any("x"), p.any("axes")), lambda x, y: x.mean((0, 1))))
    assert list(bound["axes"]) == [0, 1]


def test_arguments_by_schema_name() -> None:
    pattern = p.aten.mean(self=p.any("x"), dim=p.any("axes"), keepdim=True)
    assert names(match(pattern, lambda x, y: x.mean(-1, True)))["x"] == "x"
    assert match(pattern, lambda x, y: x.mean(-1)) == "expected True, found False"


def test_arguments_that_are_not_mentioned_must_have_their_defaults() -> None:
    pattern = p.aten.add(p.any("x"), p.any("y"))
    assert isinstance(match(pattern, lambda x, y: x + y), State)
    assert match(pattern, lambda x, y: torch.add(x, y, alpha=2)) == "add has alpha=2"
    gelu = p.aten.gelu(p.any())
    assert isinstance(match(gelu, lambda x, y: nn.functional.gelu(x)), State)
    assert match(gelu, lambda x, y: nn.functional.gelu(x, approximate="tanh")) == "gelu has approximate='tanh'"
    assert isinstance(
        match(p.aten.gelu(p.any(), approximate="tanh"), lambda x, y: nn.functional.gelu(x, approximate="tanh")), State
    )


def test_arguments_the_operator_does_not_have() -> None:
    assert match(p.aten.neg(p.any(), p.any()), lambda x, y: -x) == "neg has no such arguments"
    assert match(p.aten.neg(p.any(), nothing=1), lambda x, y: -x) == "neg has no such arguments"


@pytest.mark.parametrize("function", [torch.add, torch.mul, torch.maximum, torch.logical_and])
def test_commutative_operators_match_in_both_orders(function: Callable[..., Any]) -> None:
    pattern = getattr(p.aten, function.__name__)(p.aten.neg(p.any("a")), p.aten.exp(p.any("b")))
    assert names(match(pattern, lambda x, y: function(x.neg(), y.exp()))) == {"a": "x", "b": "y"}
    assert names(match(pattern, lambda x, y: function(y.exp(), x.neg()))) == {"a": "x", "b": "y"}


def test_other_operators_match_in_one_order() -> None:
    pattern = p.aten.sub(p.aten.neg(p.any("a")), p.any("b"))
    assert isinstance(match(pattern, lambda x, y: -x - y), State)
    assert match(pattern, lambda x, y: x - (-y)).startswith("expected neg, found %x")


def test_commutative_operators_commute() -> None:
    a, b = torch.tensor([3, 5, 0]), torch.tensor([4, 5, 1])
    assert COMMUTATIVE
    for operator in COMMUTATIVE:
        assert torch.equal(operator(a, b), operator(b, a))


def test_a_name_that_occurs_twice_binds_one_value() -> None:
    pattern = p.aten.mul(p.any("x"), p.aten.sigmoid(p.any("x")))
    assert names(match(pattern, lambda x, y: x * x.sigmoid())) == {"x": "x"}
    assert names(match(pattern, lambda x, y: x.sigmoid() * x)) == {"x": "x"}
    assert match(pattern, lambda x, y: y * x.sigmoid()) == "'x' occurs twice with two values"


def test_a_repeated_number() -> None:
    pattern = p.aten.add(p.aten.mul(p.any(), p.number("n")), p.number("n"))
    assert names(match(pattern, lambda x, y: x * 3 + 3)) == {"n": 3}
    assert not isinstance(match(pattern, lambda x, y: x * 3 + 4), State)


def test_either_tries_in_order() -> None:
    pattern = p.either(p.aten.neg(p.any("first")), p.aten.exp(p.any("second")), p.aten.neg(p.any("third")))
    assert names(match(pattern, lambda x, y: -x)) == {"first": "x"}
    assert names(match(pattern, lambda x, y: x.exp())) == {"second": "x"}
    assert match(pattern, lambda x, y: x.sin()).startswith("expected exp or neg, found %sin")


def test_either_inside_goes_on_with_the_next_where_the_rest_fails() -> None:
    inner = p.either(p.any("a"), p.aten.neg(p.any("b")))
    pattern = p.aten.sub(p.aten.exp(inner), p.any("a"))
    assert names(match(pattern, lambda x, y: (-x).exp() - y)) == {"b": "x", "a": "y"}


def test_optional() -> None:
    pattern = p.aten.exp(p.optional(lambda inner: p.aten.mul(inner, p.number("scale")), p.aten.neg(p.any("x"))))
    assert names(match(pattern, lambda x, y: (-x * 2).exp())) == {"x": "x", "scale": 2}
    assert names(match(pattern, lambda x, y: (-x).exp())) == {"x": "x"}
    assert match(pattern, lambda x, y: (x * 2).exp()).startswith("expected neg, found %x")


def test_one_node_matched_twice_is_one_node_of_the_match() -> None:
    pattern = p.aten.add(p.aten.neg(p.any("x")), p.aten.exp(p.aten.neg(p.any("x"))))

    def function(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        negative = -x
        return negative + negative.exp()

    found = match(pattern, function)
    assert isinstance(found, State)
    assert [op_name(n) for n in found.nodes] == ["add", "neg", "exp"]


def test_the_deepest_failure_is_kept() -> None:
    pattern = p.either(p.aten.exp(p.aten.sin(p.any())), p.aten.exp(p.aten.neg(p.aten.sin(p.any()))))
    failure = Failure()
    root = traced(lambda x: x.neg().exp(), X).outputs[0]
    assert list(pattern.match(root, State(), failure)) == []
    assert (failure.depth, failure.reason) == (2, "expected sin, found %x = placeholder")
    assert failure.node.name == "x"


def test_roots() -> None:
    aten = torch.ops.aten
    assert p.aten.neg(p.any()).roots() == {aten.neg}
    assert p.either(p.aten.neg(p.any()), p.aten.exp(p.any())).roots() == {aten.neg, aten.exp}
    assert p.optional(lambda inner: p.aten.neg(inner), p.aten.exp(p.any())).roots() == {aten.neg, aten.exp}
    with pytest.raises(ValueError, match="AnyValue cannot be the outermost pattern of a rule: start with an operator"):
        p.any().roots()


def test_an_operator_that_does_not_exist() -> None:
    with pytest.raises(AttributeError, match="no_such_operator"):
        p.aten.no_such_operator(p.any())


def test_own_operators() -> None:
    graph: Graph = traced(lambda x: x, X)
    x = graph.inputs[0]
    node = GraphBuilder(graph, graph.output).txgraph.linear_activation(x, x, None, "relu")
    pattern = p.txgraph.linear_activation(p.any("x"), p.any("w"), None, "relu")
    assert names(match_at(pattern, node)) == {"x": "x", "w": "x"}
    assert match_at(p.txgraph.linear_activation(p.any(), p.any(), None, "silu"), node) == (
        "expected 'silu', found 'relu'"
    )


CHAIN = p.chain(
    p.aten.exp(p.any("x")),
    "steps",
    scale=lambda s: p.aten.mul(s, p.number("factor")),
    shift=lambda s: p.aten.add(s, p.any("term")),
)


def steps(state: State | str) -> list[tuple[str, Any]]:
    assert isinstance(state, State), state
    bound = [(step.kind, next(iter(step.bound.values()))) for step in state.bound["steps"]]
    return [(kind, value.name if isinstance(value, Node) else value) for kind, value in bound]


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x, y: x.exp(), []),
        (lambda x, y: x.exp() * 2, [("scale", 2)]),
        (lambda x, y: x.exp() * 2 + y, [("shift", "y"), ("scale", 2)]),
        (lambda x, y: (y + x.exp() * 2) * 3 * 4, [("scale", 4), ("scale", 3), ("shift", "y"), ("scale", 2)]),
        (lambda x, y: y.sin() + (x + x.exp()), [("shift", "sin"), ("shift", "x")]),
    ],
)
def test_chain(function: Callable[..., Any], expected: list[tuple[str, Any]]) -> None:
    found = match(CHAIN, function)
    assert steps(found) == expected
    assert len(found.nodes) == len(expected) + 1
    assert found.bound["x"].name == "x"


def test_chain_keeps_what_was_bound_before() -> None:
    pattern = p.aten.sub(p.any("y"), CHAIN)
    assert names(match(pattern, lambda x, y: y - x.exp() * 2))["y"] == "y"
    again = p.aten.sub(p.any("x"), CHAIN)
    assert match(again, lambda x, y: y - x.exp() * 2) == "'x' occurs twice with two values"


def test_chain_that_does_not_fit() -> None:
    assert match(CHAIN, lambda x, y: (x.sin() * 2) + 1).startswith("expected exp, found %")
    assert match(CHAIN, lambda x, y: x.exp() * y).startswith("expected a number for 'factor'")


def test_chain_is_not_followed_for_ever() -> None:
    def function(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        x = x.exp()
        for _ in range(9):
            x = x * 2
        return x

    assert isinstance(match(CHAIN, function), str)


def test_roots_of_a_chain() -> None:
    assert {str(r) for r in CHAIN.roots()} == {"aten.exp", "aten.mul", "aten.add"}


def test_one_of_several_results() -> None:
    pattern = p.aten.exp(p.item(p.aten.max(p.any("x"), 1, True), 0))
    found = match(pattern, lambda x, y: x.max(1, keepdim=True)[0].exp())
    assert [op_name(n) for n in found.nodes] == ["exp", "getitem", "max"]
    assert match(pattern, lambda x, y: x.max(1, keepdim=True)[1].exp()).startswith("expected result 0, found %")
    assert match(pattern, lambda x, y: x.exp()).startswith("expected result 0, found %x")


def test_a_whole_pattern_that_is_rejected_is_nearer_than_a_deep_failure() -> None:
    failure = Failure()
    failure.record(7, "deep", None)
    failure.record(2, "rejected", None, complete=True)
    failure.record(9, "deeper", None)
    assert (failure.reason, failure.depth, failure.complete) == ("rejected", 2, True)
