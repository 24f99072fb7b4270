"""One rule on one graph: where it applies, why it does not, and what it may not do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.fx import Node

from tests.small import MLP, apply, find, graph_of, traced
from txgraph import Accept, Match, PassContext, PassFailed, Reject, RewritePass, Target
from txgraph.ir import Graph, GraphBuilder, interpret, op_name, provenance_of
from txgraph.rewrite import Pattern, PatternFactory, apply_rule, explain_pass
from txgraph.rewrite.driver import MAX_SWEEPS

X = torch.linspace(-1, 1, 8).reshape(2, 4)
CONTEXT = PassContext()


@dataclass(frozen=True)
class NegateTwice(RewritePass):
    """neg(neg(x)) -> x, only where x is a matrix."""

    def pattern(self, p: PatternFactory) -> Pattern:
        return p.aten.neg(p.aten.neg(p.any("x")))

    def check(self, match: Match) -> Accept | Reject:
        if match.type("x").rank != 2:
            return Reject("x is no matrix", match.nodes[1])
        return Accept()

    def rewrite(self, match: Match, g: GraphBuilder) -> Node:
        return match["x"]


@dataclass(frozen=True)
class FuseSilu(RewritePass):
    """x * sigmoid(x) -> silu(x)."""

    def pattern(self, p: PatternFactory) -> Pattern:
        return p.aten.mul(p.any("x"), p.aten.sigmoid(p.any("x"), name="gate"))

    def rewrite(self, match: Match, g: GraphBuilder) -> Node:
        return g.aten.silu(match["x"])


def reasons(rule: RewritePass, graph: Graph) -> list[str]:
    matches, misses = explain_pass(rule, graph, CONTEXT)
    assert matches == []
    return [m.reason for m in misses]


def test_every_place_is_rewritten() -> None:
    graph = traced(lambda x, y: (x.neg().neg().exp(), y.neg().neg()), X, X)
    after, rewrites = apply(NegateTwice(), graph)
    assert after.count() == {"exp": 1}
    assert [r.rule for r in rewrites] == ["negate-twice"] * 2
    assert {r.removed for r in rewrites} == {("neg_1", "neg"), ("neg_3", "neg_2")}
    assert graph.count() == {"exp": 1, "neg": 4}
    assert apply(NegateTwice(), after)[1] == []


def test_a_result_may_make_further_places() -> None:
    graph = traced(lambda x: x.neg().neg().neg().neg().neg(), X)
    after, rewrites = apply(NegateTwice(), graph)
    assert after.count() == {"neg": 1}
    assert len(rewrites) == 2
    assert torch.equal(interpret(after, [X])[0], -X)


def test_new_nodes_take_the_place_and_the_origin() -> None:
    class Gate(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * x.sigmoid()

    linear = nn.Linear(4, 4)
    graph = graph_of(nn.Sequential(Gate(), linear), X)
    after, (rewrite,) = apply(FuseSilu(), graph)
    silu = find(after, "silu")
    assert rewrite.made == (silu.name,)
    assert rewrite.module == "0"
    assert rewrite.location == f"test_driver.py:{Gate.forward.__code__.co_firstlineno + 1}"
    assert provenance_of(silu).passes == ("fuse-silu",)
    assert provenance_of(silu).location == rewrite.location
    assert torch.equal(interpret(after, [X])[0], linear(nn.functional.silu(X)))


def test_an_inner_value_used_elsewhere_does_not_match() -> None:
    graph = traced(lambda x: (x.neg().neg(), x.neg().exp()), X)
    inner = -X  # two separate negations: each is used once
    assert torch.equal(interpret(graph, [X])[1], inner.exp())
    assert len(explain_pass(NegateTwice(), graph, CONTEXT)[0]) == 1

    def shared(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        negative = -x
        return -negative, negative.exp()

    graph = traced(shared, X)
    assert reasons(NegateTwice(), graph) == [
        "inner value %neg is also used by %exp",
        "expected neg, found %x = placeholder",
    ]
    assert apply(NegateTwice(), graph)[1] == []


def test_an_inner_value_that_is_an_output_does_not_match() -> None:
    def forward(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        negative = -x
        return -negative, negative

    assert reasons(NegateTwice(), traced(forward, X))[0] == "inner value %neg is also used by %output"


def test_what_the_pattern_binds_may_be_used_elsewhere() -> None:
    after, rewrites = apply(NegateTwice(), traced(lambda x: (x.exp().neg().neg(), x.exp().sin()), X))
    assert len(rewrites) == 1
    assert after.count() == {"exp": 2, "sin": 1}


def test_check_refuses_with_its_reason_and_node() -> None:
    graph = traced(lambda x: x.neg().neg(), torch.ones(2, 3, 4))
    _, misses = explain_pass(NegateTwice(), graph, CONTEXT)
    assert (misses[0].reason, misses[0].depth) == ("x is no matrix", 2)
    assert misses[0].node.startswith("%neg = neg")
    assert apply(NegateTwice(), graph)[1] == []


def test_near_misses_come_nearest_first_with_node_and_source_line() -> None:
    class Model(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            far = x.exp() * x.sin()
            near = x * far.sigmoid()
            return near

    graph = graph_of(Model(), X)
    matches, misses = explain_pass(FuseSilu(), graph, CONTEXT)
    first = Model.forward.__code__.co_firstlineno
    assert matches == []
    assert [(m.depth, m.root) for m in misses] == [(2, "mul_1"), (1, "mul")]
    assert misses[0].reason == "'x' occurs twice with two values"
    assert misses[0].location == f"test_driver.py:{first + 1}"
    assert misses[1].reason.startswith("expected sigmoid, found %")


def test_explaining_changes_nothing() -> None:
    graph = traced(lambda x: x.neg().neg(), X)
    text = str(graph)
    matches, misses = explain_pass(NegateTwice(), graph, CONTEXT)
    assert [m.removed for m in matches] == [("neg_1", "neg")]
    assert misses == []
    assert str(graph) == text


@pytest.mark.parametrize(("seconds", "applied"), [(None, 1), (1e-9, 1), (0.0, 0), (-2e-6, 0)])
def test_gain_decides(seconds: float | None, applied: int) -> None:
    class Weighed(NegateTwice):
        def gain(self, match: Match, made: Sequence[Node]) -> float | None:
            return seconds

    graph = traced(lambda x: x.neg().neg(), X)
    assert len(apply(Weighed(), graph, PassContext(Target("cpu")))[1]) == applied
    if not applied:
        assert (
            reasons(Weighed(), graph)[0] == f"no gain: predicted {seconds * 1e6:.2f} µs on {CONTEXT.cost.hardware.name}"
        )


def test_a_rule_that_undoes_its_own_work() -> None:
    class Forever(RewritePass):
        def pattern(self, p: PatternFactory) -> Pattern:
            return p.aten.neg(p.any("x"))

        def rewrite(self, match: Match, g: GraphBuilder) -> Node:
            return g.aten.neg(match["x"])

    message = rf"pass forever does not converge: it still rewrites after {MAX_SWEEPS} sweeps, last at neg"
    with pytest.raises(PassFailed, match=message):
        apply_rule(Forever(), traced(lambda x: -x, X), CONTEXT)


def replacing(make: object) -> RewritePass:
    """A rule that replaces exp(x) by whatever ``make`` gives."""

    class ReplaceExp(RewritePass):
        def pattern(self, p: PatternFactory) -> Pattern:
            return p.aten.exp(p.any("x"))

        def rewrite(self, match: Match, g: GraphBuilder) -> Node:
            return make(match, g)

    return ReplaceExp()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda m, g: g.aten._to_copy(m["x"], dtype=torch.float64),
            r"%exp = exp is f32\[2, 4\], its replacement %.* is f64\[2, 4\]",
        ),
        (lambda m, g: g.aten.unsqueeze(m["x"], 0), r"is f32\[2, 4\], its replacement %.* is f32\[1, 2, 4\]"),
        (lambda m, g: None, r"rewrite\(\) of %exp = exp returned None; return a node of this graph"),
        (lambda m, g: 3.0, r"returned 3.0; return a node of this graph"),
        (lambda m, g: traced(lambda x: x.sin(), X).calls()[0], r"returned sin; return a node of this graph"),
        (lambda m, g: g.aten.split.Tensor(m["x"], 1), r"is f32\[2, 4\], its replacement %split\w* is None"),
    ],
    ids=["dtype", "rank", "None", "number", "foreign", "tuple"],
)
def test_what_a_replacement_must_be(make: object, message: str) -> None:
    with pytest.raises(PassFailed, match=rf"pass replace-exp: .*{message}"):
        apply_rule(replacing(make), traced(lambda x: x.exp() + 1, X), CONTEXT)


def test_the_replacement_may_be_a_constant_or_an_input() -> None:
    graph = traced(lambda x: x.exp() + 1, X).copy()
    assert len(apply_rule(replacing(lambda m, g: g.constant("zeros", torch.zeros(2, 4), [])), graph, CONTEXT)) == 1
    assert torch.equal(interpret(graph, [X])[0], torch.ones(2, 4))


def test_overlapping_places_are_rewritten_once() -> None:
    class Shift(RewritePass):
        """add(add(x, a), b) -> add(x, a + b)."""

        def pattern(self, p: PatternFactory) -> Pattern:
            return p.aten.add(p.aten.add(p.any("x"), p.number("a")), p.number("b"))

        def rewrite(self, match: Match, g: GraphBuilder) -> Node:
            return g.aten.add.Tensor(match["x"], match["a"] + match["b"])

    after, rewrites = apply(Shift(), traced(lambda x: x + 1 + 2 + 3 + 4, X))
    assert after.count() == {"add": 1}
    assert find(after, "add").args[1] == 10
    assert len(rewrites) == 3


def test_the_largest_match_wins() -> None:
    class Absorb(RewritePass):
        def pattern(self, p: PatternFactory) -> Pattern:
            return p.either(p.aten.exp(p.aten.neg(p.any("x"))), p.aten.neg(p.any("x")))

        def check(self, match: Match) -> Accept | Reject:
            return Accept()

        def rewrite(self, match: Match, g: GraphBuilder) -> Node:
            return g.aten.sin(match["x"]) if len(match.nodes) == 2 else g.aten.cos(match["x"])

    after, _ = apply(Absorb(), traced(lambda x: (-x).exp(), X))
    assert [op_name(n) for n in after.calls()] == ["sin"]


def test_rules_see_the_target() -> None:
    class OnlyCuda(NegateTwice):
        def check(self, match: Match) -> Accept | Reject:
            return Accept() if match.context.target.kind == "cuda" else Reject("for GPUs only")

    graph = traced(lambda x: x.neg().neg(), X)
    assert apply(OnlyCuda(), graph)[1] == []
    assert reasons(OnlyCuda(), graph)[0] == "for GPUs only"
    assert len(apply(OnlyCuda(), graph, PassContext(Target("cuda")))[1]) == 1


def test_a_real_network() -> None:
    model = MLP()

    class SwapGelu(RewritePass):
        def pattern(self, p: PatternFactory) -> Pattern:
            return p.aten.gelu(p.aten.linear(p.any("x"), p.const("w"), p.const("b")))

        def rewrite(self, match: Match, g: GraphBuilder) -> Node:
            return g.txgraph.linear_activation(match["x"], match["w"], match["b"], "gelu")

    after, (rewrite,) = apply(SwapGelu(), graph_of(model, X))
    assert rewrite.removed == ("gelu", "linear")
    assert torch.equal(interpret(after, [X])[0], model(X))


def test_module_without_matches() -> None:
    graph = traced(lambda x: x.sin(), X)
    assert explain_pass(NegateTwice(), graph, CONTEXT) == ([], [])
    assert apply(NegateTwice(), graph)[1] == []
