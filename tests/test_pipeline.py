"""A pipeline is a tuple of passes; each works on its own copy, and a failure leaves the graph before it intact."""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import txgraph
from tests import padded
from tests.small import MLP, find, graph_of, traced
from tests.zoo import ZOO
from txgraph import (
    InvalidGraph,
    Pass,
    PassContext,
    PassFailed,
    Pipeline,
    Rewrite,
    RewritePass,
    default_pipeline,
    rewrite,
)
from txgraph.ir import Graph, GraphBuilder, interpret, op_name
from txgraph.ir.ops import ACTIVATIONS
from txgraph.passes import Int8
from txgraph.passes.fold.eliminate_dead_code import EliminateDeadCode
from txgraph.pipeline import BetweenPasses, PassResult

X = torch.linspace(-1, 1, 8).reshape(2, 4)
CONTEXT = PassContext()
Edit = Callable[[Graph], object]


@dataclass(frozen=True)
class Renamed(Pass):
    """A pass of any name that does what ``edit`` does to the graph."""

    title: str
    edit: Edit = lambda graph: None
    changes: bool = True

    @property
    def name(self) -> str:
        return self.title

    def run(self, graph: Graph, context: PassContext) -> list[Rewrite]:
        self.edit(graph)
        return [Rewrite(self.title, ("something",))] if self.changes else []


def replace(old: str, new: str) -> Edit:
    """Replace an operator of one argument by another."""

    def edit(graph: Graph) -> None:
        node = find(graph, old)
        node.replace_all_uses_with(getattr(GraphBuilder(graph, node).aten, new)(node.args[0]))

    return edit


A, B, C, D = (Renamed(name) for name in "abcd")


# -- building ------------------------------------------------------------------------------------------------------


def test_pipelines_are_tuples_of_passes() -> None:
    pipeline = Pipeline((A, B, A))
    assert pipeline.names == ("a", "b", "a")
    assert list(pipeline) == [A, B, A]
    assert len(pipeline) == 3
    assert Pipeline().names == ()


def test_every_change_gives_a_new_pipeline() -> None:
    base = Pipeline((A, B, A))
    assert base.append(C).names == ("a", "b", "a", "c")
    assert base.insert_before("a", C).names == ("c", "a", "b", "a")
    assert base.insert_after("a", C).names == ("a", "b", "a", "c")
    assert base.insert_before("b", C).names == base.insert_after("b", C).without("c").insert_before("b", C).names
    assert base.insert_after("b", C).names == ("a", "b", "c", "a")
    assert base.without("a").names == ("b",)
    assert base.append(C).append(D).without("b").names == ("a", "a", "c", "d")
    assert base.names == ("a", "b", "a")


@pytest.mark.parametrize(
    "change",
    [
        lambda p: p.insert_before("zzz", C),
        lambda p: p.insert_after("zzz", C),
        lambda p: p.without("zzz"),
    ],
)
def test_unknown_names(change: Callable[[Pipeline], Pipeline]) -> None:
    with pytest.raises(ValueError, match=r"no pass named 'zzz' in this pipeline: it has \['a', 'b'\]"):
        change(Pipeline((A, B)))


@pytest.mark.parametrize(
    "change",
    [
        lambda p: p.append(EliminateDeadCode),
        lambda p: p.insert_before("a", EliminateDeadCode),
        lambda p: p.insert_after("a", EliminateDeadCode),
    ],
)
def test_what_is_no_pass(change: Callable[[Pipeline], Pipeline]) -> None:
    with pytest.raises(TypeError, match=r"expected a txgraph.Pass, got <class .*; did you forget to instantiate it\?"):
        change(Pipeline((A,)))


def test_the_default_pipeline_can_be_changed() -> None:
    base = default_pipeline()
    added = Renamed("mine")
    names = base.insert_before("fold-constants", added).names
    assert names.index("mine") + 1 == names.index("fold-constants")
    assert "remove-identities" not in base.without("remove-identities").names
    assert all(isinstance(each, Pass) for each in base)


def test_names_of_built_in_passes_and_their_files_correspond() -> None:
    for each in default_pipeline():
        assert type(each).__module__.rsplit(".", 1)[1] == each.name.replace("-", "_")


# -- running -------------------------------------------------------------------------------------------------------


def test_passes_run_in_order_on_copies() -> None:
    graph = traced(lambda x: x.sin(), X)
    text = str(graph)
    after, records = Pipeline((Renamed("one", replace("sin", "cos")), Renamed("two", replace("cos", "exp")))).run(
        graph, CONTEXT
    )
    assert after.count() == {"exp": 1}
    assert str(graph) == text
    assert [(r.name, r.status, len(r.rewrites)) for r in records] == [("one", "applied", 1), ("two", "applied", 1)]
    assert all(r.seconds > 0 for r in records)


def test_what_a_pass_leaves_behind_is_removed() -> None:
    def leave(graph: Graph) -> None:
        GraphBuilder(graph, graph.output).aten.neg(graph.inputs[0])

    after, _ = Pipeline((Renamed("leaves", leave),)).run(traced(lambda x: x.sin(), X), CONTEXT)
    assert after.count() == {"sin": 1}


def test_a_pass_that_says_it_changed_nothing_is_not_listened_to() -> None:
    lie = Renamed("lie", replace("sin", "cos"), changes=False)
    after, (record,) = Pipeline((lie,)).run(traced(lambda x: x.sin(), X), CONTEXT)
    assert after.count() == {"sin": 1}
    assert record.status == "unchanged"


def test_an_empty_pipeline() -> None:
    graph = traced(lambda x: x.sin(), X)
    assert Pipeline().run(graph, CONTEXT) == (graph, [])


def test_passes_get_the_context() -> None:
    seen = []

    class Look(Pass):
        def run(self, graph: Graph, context: PassContext) -> list[Rewrite]:
            seen.append(context)
            return []

    context = PassContext(fused_activations=frozenset({"relu"}))
    Pipeline((Look(),)).run(traced(lambda x: x.sin(), X), context)
    assert seen == [context]
    assert seen[0] is context


def test_the_hook_rolls_back_one_pass_and_later_ones_still_run() -> None:
    graph = traced(lambda x: x.sin() + x.neg(), X)
    calls: list[tuple[str, str, str]] = []

    def between(result: PassResult) -> str:
        calls.append((result.each.name, str(result.before), str(result.after)))
        return "not good" if result.each.name == "bad" else ""

    pipeline = Pipeline(
        (
            Renamed("good", replace("sin", "cos")),
            Renamed("bad", replace("cos", "exp")),
            Renamed("idle", changes=False),
            Renamed("late", replace("neg", "abs")),
        )
    )
    after, records = pipeline.run(graph, CONTEXT, between)
    assert after.count() == {"abs": 1, "add": 1, "cos": 1}
    assert [(r.name, r.status, r.reason) for r in records] == [
        ("good", "applied", ""),
        ("bad", "rolled back", "not good"),
        ("idle", "unchanged", ""),
        ("late", "applied", ""),
    ]
    assert len(records[1].rewrites) == 1
    assert [name for name, _, _ in calls] == ["good", "bad", "late"]
    assert calls[0][2] == calls[1][1] == calls[2][1]
    assert "exp" in calls[1][2]
    assert "exp" not in calls[2][2]


class Everywhere(Pass):
    """sin -> cos, at every place; asks whether it may, or does not."""

    def __init__(self, asks: bool) -> None:
        self.asks = asks

    def run(self, graph: Graph, context: PassContext) -> list[Rewrite]:
        rewrites = []
        for node in [n for n in graph.calls() if op_name(n) == "sin"]:
            if not self.asks or context.permits(self, node):
                new = GraphBuilder(graph, node).aten.cos(node.args[0])
                rewrites.append(rewrite.replace(self.name, {node: new}))
        return rewrites


def not_at(*roots: str) -> BetweenPasses:
    def between(result: PassResult) -> dict[str, str]:
        return {r.root: f"not at {r.root}" for r in result.rewrites if r.root in roots}

    return between


def test_the_hook_takes_out_single_rewrites() -> None:
    graph = traced(lambda x: (x.sin(), x.neg().sin(), x.abs().sin()), X)
    first, second, third = (n.name for n in graph.calls() if op_name(n) == "sin")
    after, (record,) = Pipeline((Everywhere(asks=True),)).run(graph, CONTEXT, not_at(first, third))
    assert record.status == "applied"
    assert record.vetoed == {first: f"not at {first}", third: f"not at {third}"}
    assert [r.root for r in record.rewrites] == [second]
    assert after.count() == {"abs": 1, "cos": 1, "neg": 1, "sin": 2}
    assert CONTEXT.vetoes == {}, "a veto holds for this run of this pass"


def test_a_pass_without_any_rewrite_left_is_unchanged() -> None:
    graph = traced(lambda x: x.sin(), X)
    after, (record,) = Pipeline((Everywhere(asks=True),)).run(graph, CONTEXT, not_at("sin_default", "sin"))
    assert (record.status, record.rewrites, len(record.vetoed)) == ("unchanged", (), 1)
    assert after.count() == {"sin": 1}


def test_a_pass_that_does_not_ask_is_rolled_back() -> None:
    graph = traced(lambda x: (x.sin(), x.neg().sin()), X)
    root = next(n.name for n in graph.calls() if op_name(n) == "sin")
    after, (record,) = Pipeline((Everywhere(asks=False),)).run(graph, CONTEXT, not_at(root))
    assert (record.status, record.reason) == ("rolled back", f"it cannot leave out single rewrites: not at {root}")
    assert after.count() == {"neg": 1, "sin": 2}


# -- failing -------------------------------------------------------------------------------------------------------


def unordered(graph: Graph) -> None:
    sin = find(graph, "sin")
    sin.prepend(GraphBuilder(graph, graph.output).aten.neg(sin))
    graph.output.args = ((find(graph, "neg"),),)


def no_outputs(graph: Graph) -> None:
    graph.output.args = ((),)


def no_output_node(graph: Graph) -> None:
    graph.fx.erase_node(graph.output)


def other_dtype(graph: Graph) -> None:
    (value,) = graph.outputs
    graph.output.args = ((GraphBuilder(graph, graph.output).aten._to_copy(value, dtype=torch.float16),),)


def in_place(graph: Graph) -> None:
    sin = find(graph, "sin")
    sin.target = torch.ops.aten.sin_.default


def untyped(graph: Graph) -> None:
    with graph.fx.inserting_before(graph.output):
        graph.output.args = ((graph.fx.call_function(torch.ops.aten.neg.default, graph.outputs),),)


def lose_an_input(graph: Graph) -> None:
    find(graph, "sin").replace_input_with(graph.inputs[0], GraphBuilder(graph, find(graph, "sin")).aten.ones([2, 4]))
    graph.fx.erase_node(graph.inputs[0])


def raise_key_error(graph: Graph) -> None:
    raise KeyError("missing")


BREAKAGES: list[tuple[Edit, str]] = [
    (raise_key_error, r"pass breaks raised KeyError: 'missing'"),
    (unordered, r"pass breaks left an invalid graph: .*%sin\w*, which does not come before it"),
    (no_outputs, r"pass breaks left an invalid graph: the graph has 0 outputs where it had 1"),
    (no_output_node, r"pass breaks left an invalid graph: the graph has no output node"),
    (other_dtype, r"pass breaks left an invalid graph: output 0 .* is f16\[2, 4\] where it was f32\[2, 4\]"),
    (in_place, r"pass breaks left an invalid graph: .*writes to its arguments"),
    (untyped, r"pass breaks left an invalid graph: .*has no type; build nodes with the GraphBuilder"),
    (lose_an_input, r"pass breaks left an invalid graph: the graph has 0 inputs where it had 1"),
]


@pytest.mark.parametrize(("edit", "message"), BREAKAGES, ids=[e.__name__ for e, _ in BREAKAGES])
def test_a_pass_that_breaks_is_named_and_the_graph_before_it_is_intact(edit: Edit, message: str) -> None:
    graph = traced(lambda x: x.exp(), X)
    pipeline = Pipeline((Renamed("good", replace("exp", "sin")), Renamed("breaks", edit), Renamed("never")))
    with pytest.raises(PassFailed, match=message) as caught:
        pipeline.run(graph, CONTEXT)
    assert caught.value.__cause__ is not None
    assert isinstance(caught.value.__cause__, KeyError if edit is raise_key_error else InvalidGraph)
    intact = caught.value.graph
    assert intact.count() == {"sin": 1}
    assert torch.equal(interpret(intact, [X])[0], X.sin())
    assert torch.equal(interpret(graph, [X])[0], X.exp())


def test_a_pass_that_never_converges() -> None:
    class Forever(RewritePass):
        def pattern(self, p):
            return p.aten.sin(p.any("x"))

        def rewrite(self, match, g):
            return g.aten.sin(match["x"])

    graph = traced(lambda x: x.exp(), X)
    with pytest.raises(PassFailed, match="pass forever does not converge") as caught:
        Pipeline((Renamed("good", replace("exp", "sin")), Forever())).run(graph, CONTEXT)
    assert torch.equal(interpret(caught.value.graph, [X])[0], X.sin())


def test_a_pass_may_be_interrupted() -> None:
    def interrupt(graph: Graph) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Pipeline((Renamed("slow", interrupt),)).run(traced(lambda x: x.sin(), X), CONTEXT)


def test_the_default_pipeline_on_a_small_network_changes_what_it_says() -> None:
    model = MLP()
    graph = graph_of(model, X)
    after, records = default_pipeline().run(graph, CONTEXT)
    assert {r.status for r in records} <= {"applied", "unchanged"}
    assert torch.equal(interpret(after, [X])[0], model(X))
    again, records = default_pipeline().run(after, CONTEXT)
    assert {r.status for r in records} == {"unchanged"}
    assert str(again) == str(after)


# -- vetoes --------------------------------------------------------------------------------------------------------


class Mixed(nn.Module):
    """Something for the passes that transformers give little to do."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm = nn.Conv1d(8, 8, 1), nn.BatchNorm1d(8)
        self.up, self.down, self.out = nn.Linear(8, 2, bias=False), nn.Linear(2, 8, bias=False), nn.Linear(8, 8)
        self.eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(self.conv(x.transpose(1, 2))).transpose(1, 2)
        y = self.out(y) + self.down(self.up(y)) * 0.5
        heads = [
            torch.softmax(q @ k.transpose(-2, -1) / 2, -1) @ v
            for q, k, v in zip(*(part.split(4, -1) for part in (y, y.sin(), y.cos())), strict=True)
        ]
        y = torch.cat([torch.cat(heads, -1), y[:, :0]], 1)
        z = (y - y.amax(-1, True)).exp()
        y = (z / z.sum(-1, True) + 1.0 + 2.0) @ x.transpose(1, 2) @ x
        y = (y * torch.sigmoid(y)) @ torch.ones(8, 8)
        y = y * 0.5 * (1 + torch.erf(y / 2**0.5))
        d = y - y.mean(-1, True)
        y = d / (d.pow(2).mean(-1, True) + 1e-5).sqrt()
        y = y * torch.rsqrt(y.pow(2).mean(-1, True) + 1e-6)
        y = F.scaled_dot_product_attention(y, y, y)
        return torch.einsum("bsd,btd->bst", self.out(y * 2.0), y).tanh()[:, 0]


EVERY_PASS = default_pipeline()


@functools.cache
def graphs_with_rewrites() -> dict[str, list[tuple[Pass, Graph]]]:
    """For each pass of the default pipeline, graphs in which it rewrites something."""
    found: dict[str, list[tuple[Pass, Graph]]] = {}
    for name in ("bert-eager", "gpt2-unmasked-eager", "llama-unmasked-eager", "mistral-unmasked-eager", "mixtral-sdpa"):
        collect(ZOO[name].model(), ZOO[name].inputs(2, 12), found)
    pruned = copy.deepcopy(ZOO["bert-eager"].model())
    for name, weight in pruned.named_parameters():
        if name.endswith("output.dense.weight"):  # half of the heads, and half of the hidden channels
            weight.data[:, : weight.shape[1] // 2] = 0
    collect(pruned, ZOO["bert-eager"].inputs(2, 12), found)
    collect(Mixed(), {"x": torch.randn(2, 40, 8)}, found)
    collect(padded.Encoder(lambda m: m[:, None, None], padded.mean), {"ids": padded.ids(), "mask": padded.RIGHT}, found)
    collect(txgraph.compress(MLP(32), Int8()), {"x": torch.randn(2, 4)}, found)
    dead = traced(lambda x: x.sin(), X)
    GraphBuilder(dead, dead.output).aten.cos(dead.inputs[0])
    found["eliminate-dead-code"] = [(EliminateDeadCode(), dead)]
    return found


def collect(model: nn.Module, inputs: dict[str, torch.Tensor], found: dict[str, list[tuple[Pass, Graph]]]) -> None:
    graph = graph_of(model, **inputs)
    for each in EVERY_PASS:
        after, (record,) = Pipeline((each,)).run(graph, GENEROUS)
        if record.rewrites:
            found.setdefault(each.name, []).append((each, graph))
        graph = after


GENEROUS = PassContext(fused_activations=frozenset(ACTIVATIONS), weighs=False)


@pytest.mark.parametrize("name", dict.fromkeys(EVERY_PASS.names))
def test_every_pass_leaves_out_what_is_vetoed(name: str) -> None:
    assert name in graphs_with_rewrites(), "give the test a graph in which it rewrites something"
    for each, graph in graphs_with_rewrites()[name]:
        _, (record,) = Pipeline((each,)).run(graph, GENEROUS)
        vetoed = record.rewrites[0].root
        misses: list[rewrite.NearMiss] = []
        context = dataclasses.replace(GENEROUS, vetoes={(name, vetoed): "by order"}, near_misses=misses)
        rewrites = each.run(graph.copy(), context)
        assert vetoed not in [r.root for r in rewrites]
        assert [(m.root, m.reason) for m in misses if m.reason == "by order"] == [(vetoed, "by order")]
