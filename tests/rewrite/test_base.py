"""What passes are made of: names, records, and what must be overridden."""

from __future__ import annotations

import pytest
import torch
from torch.fx import Node

from tests.small import find, graph_of
from txgraph import Accept, Match, NodePass, Pass, PassContext, Reject, Rewrite, RewritePass, Target
from txgraph.ir import Graph, GraphBuilder, op_name
from txgraph.ir.known_values import KnownValues
from txgraph.rewrite import NearMiss, Pattern, PatternFactory, replace


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
    match = Match(
        find(graph, "exp"), (find(graph, "exp"),), {"x": graph.inputs[0]}, graph, PassContext(), KnownValues(graph)
    )
    assert FuseRmsNorm().check(match) == Accept()
    assert FuseRmsNorm().gain(match, []) is None


@pytest.mark.parametrize("abstract", [Pass, NodePass, RewritePass])
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


class SimplifyTrigonometry(NodePass):
    """sin(0 * x) and the like; cos is refused, tan is not made in the end."""

    def rewrite(self, node: Node, g: GraphBuilder) -> Node | Reject | None:
        match op_name(node):
            case "sin":
                return g.aten.neg(g.aten.abs(node.args[0]))
            case "cos":
                g.aten.abs(node.args[0])
                return Reject("cos is even")
            case "tan":
                g.aten.abs(node.args[0])
        return None


def test_a_pass_of_single_operators() -> None:
    graph = graph_of(lambda x: (x.sin(), x.cos(), x.tan(), x.exp()), torch.ones(2))
    misses: list[NearMiss] = []
    rewrites = SimplifyTrigonometry().run(graph, PassContext(near_misses=misses))
    assert graph.count() == {"abs": 1, "cos": 1, "exp": 1, "neg": 1, "tan": 1}, "what was made for nothing is gone"
    (rewrite,) = rewrites
    assert (rewrite.removed, set(rewrite.made)) == (("sin",), {"abs_default", "neg_default"})
    assert [(m.root, m.reason) for m in misses] == [("cos", "cos is even")]
    assert not SimplifyTrigonometry().run(graph, PassContext()), "nobody asks why"


def test_a_value_goes_into_the_place_of_another() -> None:
    graph = graph_of(lambda x: x.exp().sin().cos().neg(), torch.ones(2))
    exp, sin, cos = (find(graph, name) for name in ("exp", "sin", "cos"))
    record = replace("shorten", {cos: sin, sin: exp})
    assert record.removed == (cos.name, sin.name)
    assert graph.count() == {"exp": 1, "neg": 1}


def test_inner_values_used_elsewhere_stay() -> None:
    graph = graph_of(lambda x: (x.exp().sin().cos(), x.exp().sin()), torch.ones(2))
    exp, sin, cos, other = graph.calls()[:3] + graph.calls()[4:]
    other.replace_all_uses_with(sin)
    replace("shorten", {cos: graph.inputs[0]}, (), (sin, exp))
    assert exp in graph.calls()
    assert cos not in graph.calls()
