"""What passes are made of: names, records, and what must be overridden."""

from __future__ import annotations

import pytest
import torch
from torch.fx import Node

from tests.small import find, graph_of
from txgraph import Accept, Match, Pass, PassContext, Rewrite, RewritePass, Target
from txgraph.ir import Graph, GraphBuilder
from txgraph.rewrite import Pattern, PatternFactory


class FuseRmsNorm(RewritePass):
    def pattern(self, p: PatternFactory) -> Pattern:
        return p.aten.exp(p.any("x"))

    def rewrite(self, match: Match, g: GraphBuilder) -> Node:
        return match["x"]


class Use2DKernels(Pass):
    def run(self, graph: Graph, context: PassContext) -> list[Rewrite]:
        return []


def test_names() -> None:
    assert FuseRmsNorm().name == "fuse-rms-norm"
    assert Use2DKernels().name == "use2-dkernels"


def test_by_default_a_rewrite_is_legal_and_not_weighed() -> None:
    graph = graph_of(lambda x: x.exp(), torch.ones(2))
    match = Match(find(graph, "exp"), (find(graph, "exp"),), {"x": graph.inputs[0]}, graph, PassContext())
    assert FuseRmsNorm().check(match) == Accept()
    assert FuseRmsNorm().gain(match, []) is None


@pytest.mark.parametrize("abstract", [Pass, RewritePass])
def test_passes_must_say_what_they_do(abstract: type[Pass]) -> None:
    with pytest.raises(TypeError, match="abstract"):
        abstract()


def test_context_defaults() -> None:
    assert PassContext() == PassContext(Target("cpu"), frozenset())


def test_record_of_a_rewrite() -> None:
    class Inner(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.exp().sin()

    graph = graph_of(torch.nn.Sequential(Inner()), torch.ones(2))
    exp, sin = graph.calls()
    record = Rewrite.of("my-rule", (n for n in (sin, exp)), [exp])
    line = Inner.forward.__code__.co_firstlineno + 1
    assert record == Rewrite("my-rule", ("sin", "exp"), ("exp",), "0", f"test_base.py:{line}")
