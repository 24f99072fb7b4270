"""A rule that is right passes; one that is wrong is refused with a small counterexample."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.fx import Node

import txgraph
from txgraph import Accept, CheckFailed, Match, NodePass, Reject, RewritePass
from txgraph.check import VALUES, Program
from txgraph.check.program import AXES, Leaf
from txgraph.check.synthesis import programs
from txgraph.ir import GraphBuilder
from txgraph.rewrite import Pattern, PatternFactory

aten = torch.ops.aten


class Rule(RewritePass):
    """linear followed by a factor -> a linear of scaled weights."""

    def pattern(self, p: PatternFactory) -> Pattern:
        return p.aten.mul(p.aten.linear(p.any("x"), p.any("w"), p.any("b")), p.number("factor"))

    def check(self, match: Match) -> Accept | Reject:
        if not all(match.type(name).dtype.is_floating_point for name in "xw") or match.type("w").rank != 2:
            return Reject("expected matrices of floats", match.root)
        return Accept() if 0.1 < abs(match["factor"]) < 4 else Reject("the factor is large or tiny", match.root)

    def rewrite(self, match: Match, g: GraphBuilder) -> Node:
        w = g.aten.mul.Tensor(match["w"], match["factor"])
        b = None if match["b"] is None else g.aten.mul.Tensor(match["b"], match["factor"])
        return g.aten.linear(match["x"], w, b)


class ForgetsTheBias(Rule):
    def rewrite(self, match: Match, g: GraphBuilder) -> Node:
        return g.aten.linear(match["x"], g.aten.mul.Tensor(match["w"], match["factor"]), match["b"])


class DropsAZero(RewritePass):
    """x + 0 -> x, also where x is -0.0: that is right; 0 * x -> 0 is not, for NaN."""

    def pattern(self, p: PatternFactory) -> Pattern:
        return p.aten.mul(p.any("x"), 0.0)

    def check(self, match: Match) -> Accept | Reject:
        return Accept() if match.type("x").dtype.is_floating_point else Reject("expected floats", match.root)

    def rewrite(self, match: Match, g: GraphBuilder) -> Node:
        return g.aten.zeros_like(match["x"])


class Aliases(RewritePass):
    """A copy is left out: its owner may write to it."""

    def pattern(self, p: PatternFactory) -> Pattern:
        return p.aten.clone(p.any("x"))

    def rewrite(self, match: Match, g: GraphBuilder) -> Node:
        node: Node = match["x"]
        return node


class WrongForNothing(RewritePass):
    """Wrong for one size only: for a last axis without elements."""

    def pattern(self, p: PatternFactory) -> Pattern:
        return p.aten.sum(p.any("x"), p.any("axes"))

    def check(self, match: Match) -> Accept | Reject:
        x = match.type("x")
        right = match["axes"] == [-1] and x.dtype.is_floating_point
        return Accept() if right else Reject("not the last axis", match.root)

    def rewrite(self, match: Match, g: GraphBuilder) -> Node:
        total = g.aten.squeeze.dim(g.aten.sum.dim_IntList(match["x"], [-1], True), -1)
        return total if match.type("x").shape[-1] else g.aten.add.Tensor(total, 1.0)


class Raises(Rule):
    def check(self, match: Match) -> Accept | Reject:
        return Reject(match["nothing"], match.root)


class Narrow(RewritePass):
    """Wrong in 16 bits only."""

    def pattern(self, p: PatternFactory) -> Pattern:
        return p.aten.exp(p.any("x"))

    def rewrite(self, match: Match, g: GraphBuilder) -> Node:
        narrow = match.type("x").dtype is torch.bfloat16
        return g.aten.exp2.default(g.aten.mul.Tensor(match["x"], 1 / math.log(2) + narrow))


@pytest.mark.parametrize(
    ("rule", "what"),
    [
        (ForgetsTheBias(), "G2 output 0"),
        (DropsAZero(), "G1 output 0: .* NaN"),
        (Aliases(), "G0 output 0: 1 > 0 shares memory with input 0"),
        (WrongForNothing(), "G2 output 0"),
        (Raises(), "it raised KeyError: 'nothing'"),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_a_wrong_rule(rule: RewritePass, what: str) -> None:
    with pytest.raises(CheckFailed, match=rf"^{rule.name} is wrong: {what}") as failed:
        txgraph.check(rule)
    graph = failed.value.counterexample
    assert graph is not None
    assert len(graph) <= 8
    assert str(graph).splitlines()[0].strip() in str(failed.value)
    sizes = [size for node in graph.inputs for size in node.meta["val"].shape]
    assert all(size <= 2 for size in sizes) or isinstance(rule, Raises)


def test_a_rule_that_is_wrong_in_one_dtype() -> None:
    with pytest.raises(CheckFailed, match=r"for normal values of torch.bfloat16"):
        txgraph.check(Narrow(), [(lambda x: aten.exp.default(x), {"x": "B"})])


def test_a_rule_that_is_right() -> None:
    checked = txgraph.check(Rule(), graphs=3)
    assert (checked.rule, checked.programs) == ("rule", 3)
    assert checked.cases > 60
    assert txgraph.check(Rule(), graphs=3) == checked, "another run, another result"


def test_values_that_a_rule_does_not_keep() -> None:
    assert txgraph.check(DropsAZero(), without=["NaN", "inf", "-inf", "negative zero"], graphs=2).programs == 2
    with pytest.raises(ValueError, match=r"unknown values \['nan'\]: expected some of \['normal', 'zeros'"):
        txgraph.check(Rule(), without=["nan"])


def test_nothing_to_check() -> None:
    class Never(Rule):
        def check(self, match: Match) -> Accept | Reject:
            return Reject("it is never right", match.root)

    with pytest.raises(CheckFailed, match=r"never was not checked: .* examples=(.|\n)* x it is never right") as failed:
        txgraph.check(Never(), seconds=0.5)
    assert failed.value.counterexample is None


class Negations(NodePass):
    def rewrite(self, node: Node, g: GraphBuilder) -> Node | None:
        return g.aten.mul.Tensor(node.args[0], -1) if node.target is aten.neg.default else None


def test_other_passes_need_examples() -> None:
    with pytest.raises(CheckFailed, match="negations was not checked"):
        txgraph.check(Negations())
    assert txgraph.check(Negations(), [(lambda x: aten.neg.default(x) + 1, {"x": "B S"})]).programs == 2


def test_a_rule_may_have_examples_itself() -> None:
    class WithExamples(Rule):
        examples = ((lambda x, w: aten.linear.default(x, w) * 2.0, {"x": "B K", "w": "N K"}),)

    assert txgraph.check(WithExamples()).programs == 2


# -- programs ------------------------------------------------------------------------------------------------------


def test_axes_of_examples() -> None:
    program = Program.of(lambda x, w: (x * w).sum(-1), x="B G*R 1", w="const G*R B")
    b, g, r = AXES[:3]
    assert program.leaves == (Leaf("x", (b, g * r, 1)), Leaf("w", (g * r, b), torch.float32, True))
    assert program.axes == (b, g, r)


@pytest.mark.parametrize(
    ("function", "shapes", "message"),
    [
        (lambda x: x, {"y": "B"}, "arguments and the shapes differ in"),
        (lambda x: x.sin(), {"x": "A B C D E F G"}, "axis G is one too many: 6"),
        (lambda x: (x.sin(), x), {"x": "B"}, "must return one tensor"),
    ],
)
def test_examples_that_are_wrong(function: Callable[..., Any], shapes: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Program.of(function, **shapes)


def test_programs_are_the_same_each_time() -> None:
    first, second = ([*programs(Rule(), [], 50)] for _ in range(2))
    assert first == second
    assert len(set(first)) == len(first) > 10


def test_every_kind_of_value_is_tried() -> None:
    assert list(VALUES) == ["normal", "zeros", "negative zero", "large", "tiny", "NaN", "inf", "-inf"]


def test_rules_of_the_users_own_are_checked_before_each_rewrite_is() -> None:
    class Never(Rule):
        def check(self, match: Match) -> Accept | Reject:
            return Reject("it is never right", match.root)

        examples = ((lambda x, w: aten.linear.default(x, w) * 2.0, {"x": "B K", "w": "N K"}),)

    model, x = torch.nn.Linear(4, 4).eval(), torch.ones(2, 4)
    with pytest.raises(CheckFailed, match="aliases is wrong"):
        txgraph.optimize(model, (x,), backend="reference", passes=txgraph.Pipeline((Aliases(),)), verify="rewrites")
    pipeline = txgraph.default_pipeline().append(Never())
    fast = txgraph.optimize(model, (x,), backend="reference", passes=pipeline, verify="rewrites")
    (note,) = fast.report.notes
    assert note.startswith("never was not checked: no graph was found that it rewrites.")
