"""A wrong rewrite among right ones is found, and taken out alone."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.fx import Node

import txgraph
from tests.small import module
from txgraph import Match, Pass, PassContext, Pipeline, Rewrite, RewritePass
from txgraph.ir import Graph, GraphBuilder
from txgraph.rewrite import Pattern, PatternFactory
from txgraph.verify.blame import culprit
from txgraph.verify.verifier import MOST_CULPRITS

X = torch.linspace(-1, 1, 8).reshape(2, 4)
REWRITES = [Rewrite("rule", (f"n{at}",)) for at in range(100)]


@pytest.mark.parametrize("wrong", [{0}, {99}, {41}, {0, 99}, {5, 6, 7}, set(range(100))], ids=str)
@pytest.mark.parametrize("size", [100, 1])
def test_the_first_wrong_rewrite_is_found_in_few_trials(wrong: set[int], size: int) -> None:
    trials = 0

    def breaks(left_out: Collection[Rewrite]) -> bool:
        nonlocal trials
        trials += 1
        return any(REWRITES[at] not in left_out for at in wrong if at < size)

    found = culprit(REWRITES[:size], breaks)
    assert found is (REWRITES[min(wrong)] if size > 1 else REWRITES[0])
    assert trials <= 7


@dataclass(frozen=True)
class RemoveScales(RewritePass):
    """x * c -> x: right where c is 1, as most are here."""

    def pattern(self, p: PatternFactory) -> Pattern:
        return p.aten.mul(p.any("x"), p.number())

    def rewrite(self, match: Match, g: GraphBuilder) -> Node:
        return match["x"]


def scales(*factors: float) -> nn.Module:
    def forward(x: torch.Tensor) -> torch.Tensor:
        for factor in factors:
            x = (x * factor).sin()
        return x

    return module(forward)


def optimized(*factors: float, rule: Pass | None = None) -> txgraph.OptimizedModel:
    model = scales(*factors)
    fast = txgraph.optimize(model, args=(X,), backend="reference", passes=Pipeline((rule or RemoveScales(),)))
    assert torch.equal(fast(X), model(X))
    return fast


@pytest.mark.parametrize("wrong", [0, 3, 7])
def test_a_wrong_rewrite_is_taken_out_alone(wrong: int) -> None:
    factors = [1.0] * 8
    factors[wrong] = 1.5
    fast = optimized(*factors)
    (record,) = fast.report.to_dict()["passes"]
    muls = [n.name for n in fast.graph_before.calls() if n.name.startswith("mul")]
    assert (record["status"], record["rewrites"]) == ("applied", 7)
    assert list(record["left_out"]) == [muls[wrong]]
    assert record["left_out"][muls[wrong]].startswith("G2 output 0: ")
    assert fast.graph_after.count() == {"mul": 1, "sin": 8}
    stages = [(v["stage"], v["passed"]) for v in fast.report.to_dict()["verification"]]
    assert stages == [("capture", True), ("remove-scales", False), ("remove-scales", True), ("backend", True)]
    assert f"remove-scales left out %{muls[wrong]}: G2 output 0: " in str(fast.report)
    (line,) = [line for line in str(fast.report).splitlines() if line.lstrip().startswith("remove-scales  ")]
    assert "applied" in line
    assert "pass" in line
    (miss,) = [m for m in fast.explain("remove-scales").near_misses if m.root == muls[wrong]]
    assert miss.reason.startswith("G2 output 0: ")


def test_several_wrong_rewrites_are_taken_out_one_by_one() -> None:
    fast = optimized(1.0, 1.5, 1.0, 0.5, 1.0, 2.0)
    (record,) = fast.report.to_dict()["passes"]
    assert (record["status"], record["rewrites"], len(record["left_out"])) == ("applied", 3, 3)
    assert fast.graph_after.count() == {"mul": 3, "sin": 6}


def test_a_pass_that_is_wrong_too_often_is_rolled_back() -> None:
    fast = optimized(*[1.5] * (MOST_CULPRITS + 2), 1.0)
    (record,) = fast.report.to_dict()["passes"]
    assert record["status"] == "rolled back"
    assert len(record["left_out"]) == MOST_CULPRITS
    assert fast.graph_after.count()["mul"] == MOST_CULPRITS + 3


def test_the_last_rewrite_takes_the_pass_with_it() -> None:
    (record,) = optimized(1.5, 0.5).report.to_dict()["passes"]
    assert (record["status"], len(record["left_out"])) == ("rolled back", 1)
    assert record["reason"].startswith("G2 output 0: ")


def test_a_pass_that_does_not_ask_is_rolled_back() -> None:
    class Rude(Pass):
        def run(self, graph: Graph, context: PassContext) -> list[Rewrite]:
            return RemoveScales().run(graph, PassContext())

    (record,) = optimized(1.0, 1.5, 1.0, rule=Rude()).report.to_dict()["passes"]
    assert record["status"] == "rolled back"
    assert record["reason"].startswith("it cannot leave out single rewrites: G2 output 0: ")
