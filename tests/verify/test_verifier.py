"""The verifier judges every stage by one pair of references, and a broken pass is rolled back alone."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import nn

import txgraph
from tests.small import BITWISE, MLP, Encoder, graph_of, module
from tests.zoo import tokens
from txgraph import Pass, PassContext, Pipeline, Rewrite, VerificationFailed
from txgraph.ir import Graph, GraphBuilder, op_name
from txgraph.pipeline import PassResult
from txgraph.verify import GateResult, StageRecord, Verifier

X = torch.linspace(-1, 1, 8).reshape(2, 4)


def verifier(level: str = "passes", model: nn.Module | None = None) -> tuple[Verifier, Graph]:
    model = model or MLP()
    graph = graph_of(model, X)
    return Verifier(level, model, (X,), {}, [X]), graph


def halve(graph: Graph) -> Graph:
    """A copy of the graph whose output is half as large."""
    wrong = graph.copy()
    (value,) = wrong.outputs
    wrong.output.args = ((GraphBuilder(wrong, wrong.output).aten.mul.Tensor(value, 0.5),),)
    return wrong


@dataclass(frozen=True)
class Named(Pass):
    """A pass of any name, of which only that is asked."""

    title: str

    @property
    def name(self) -> str:
        return self.title

    def run(self, graph: Graph, context: PassContext) -> list[Rewrite]:
        raise AssertionError("a single rewrite needs no second run")


def result(name: str, before: Graph, after: Graph) -> PassResult:
    return PassResult(Named(name), before, after, (Rewrite(name, ("x",)),), PassContext())


def test_an_honest_capture() -> None:
    judge, graph = verifier()
    judge.check_capture(graph)
    (record,) = judge.records
    assert record.stage == "capture"
    assert record.passed
    assert record.reason == ""
    assert [g.gate for g in record.gates] == ["G0", "G1", "G2", "G3"]
    assert judge.seconds > 0
    assert record.seconds > 0


def test_a_wrong_capture() -> None:
    judge, graph = verifier()
    message = r"the captured graph of MLP does not reproduce eager: G2 output 0: \S+ > \S+; G3 output 0"
    with pytest.raises(VerificationFailed, match=message):
        judge.check_capture(halve(graph))


def test_between_passes() -> None:
    judge, graph = verifier()
    judge.check_capture(graph)
    assert judge.between_passes(result("good", graph, graph.copy())) == ""
    reason = judge.between_passes(result("bad", graph, halve(graph)))
    assert re.fullmatch(r"G2 output 0: \S+ > \S+; G3 output 0: \S+ > \S+", reason)
    assert [(r.stage, r.passed) for r in judge.records] == [("capture", True), ("good", True), ("bad", False)]


def test_backends() -> None:
    judge, graph = verifier()
    judge.check_capture(graph)
    model = MLP()
    with torch.no_grad():
        assert judge.check_backend(lambda tensors: [model(*tensors)]) == ""
        assert judge.check_backend(lambda tensors: [model(*tensors) + 1]).startswith("G2 output 0")
        assert judge.check_backend(lambda tensors: []) == "G0 output 0: 0 > 1 0 leaves, eager has 1"
    assert [r.stage for r in judge.records] == ["capture", "backend", "backend", "backend"]


@pytest.mark.parametrize("error", [RuntimeError, IndexError, TypeError, ValueError, AssertionError])
def test_a_stage_that_cannot_run_has_failed(error: type[Exception]) -> None:
    judge, graph = verifier()
    judge.check_capture(graph)

    def run(tensors: object) -> list[torch.Tensor]:
        raise error("out of range")

    assert judge.check_backend(run) == f"running it raised {error.__name__}: out of range"
    assert not judge.records[-1].passed


def test_each_run_gets_fresh_inputs_and_may_not_write_to_them() -> None:
    judge, graph = verifier(model=module(lambda x: x * 2))
    judge.check_capture(graph)
    kept = X.clone()
    reason = judge.check_backend(lambda tensors: [tensors[0].mul_(2)])
    assert torch.equal(X, kept)
    assert "input 0 was written to" in reason or "shares memory" in reason
    assert judge.check_backend(lambda tensors: [tensors[0] * 2]) == ""
    reason = judge.check_backend(lambda tensors: [tensors[0] * 2, tensors[0].zero_()][:1])
    assert reason == "G0 output 0: 1 > 0 input 0 was written to"


def test_a_gained_alias() -> None:
    judge, graph = verifier(model=module(lambda x: x * 1))
    judge.check_capture(graph)
    reason = judge.check_backend(lambda tensors: tensors)
    assert reason == "G0 output 0: 1 > 0 shares memory with input 0, eager's does not"


@pytest.mark.parametrize(("level", "judged"), [("off", []), ("final", ["capture", "backend"])])
def test_levels(level: str, judged: list[str]) -> None:
    judge, graph = verifier(level)
    judge.check_capture(graph)
    assert judge.between_passes(result("bad", graph, halve(graph))) == ""
    wrong = judge.check_backend(lambda tensors: [tensors[0] * 0])
    assert bool(wrong) == (level == "final")
    assert [r.stage for r in judge.records] == judged


def test_the_worst_leaf_of_each_gate_is_reported() -> None:
    model = module(lambda x: (x * 2, x.exp(), x.sin()))
    judge, graph = verifier(model=model)
    judge.check_capture(graph)
    reason = judge.check_backend(lambda t: [t[0] * 2, t[0].exp() * 1.001, t[0].sin() * 1.01])
    assert re.fullmatch(r"G2 output 2: .*; G3 output 2: .*", reason)
    reason = judge.check_backend(lambda t: [t[0] * 2, t[0].exp(), torch.full_like(t[0], torch.nan)])
    assert reason.startswith("G1 output 2: 8 > 0 8 NaN and 0 infinities differ from eager")


def test_records() -> None:
    good, bad = GateResult("G2", 0, True, 1.0, 2.0), GateResult("G3", 0, False, 3.0, 2.0)
    assert StageRecord("s", (good,), 0.0).passed
    record = StageRecord("s", (good, bad), 0.0)
    assert (record.passed, record.reason) == (False, "G3 output 0: 3 > 2")
    assert not StageRecord("s", (), 0.0, error="raised").passed


def test_python_state_is_found() -> None:
    class Growing(nn.Module):
        factor = 1.0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.factor += 1
            return x + self.factor * 0.1

    message = r"Growing gives another result when it is called again \(G2 output 0: .*depends on Python state"
    with pytest.raises(VerificationFailed, match=message):
        txgraph.optimize(Growing(), (X,), backend="reference")


@pytest.mark.parametrize("steps", [8, 10**6], ids=["as small as rounding", "large"])
def test_state_that_no_module_holds_is_found(steps: int) -> None:
    calls: list[int] = []

    def forward(x: torch.Tensor) -> torch.Tensor:
        calls.append(len(calls))
        return x * (1 + calls[-1] * steps * torch.finfo(x.dtype).eps)

    with pytest.raises(VerificationFailed, match="gives another result when it is called again"):
        txgraph.optimize(module(forward), (X,), backend="reference")


@pytest.mark.parametrize(
    ("captured", "runs"),
    [(lambda x: (x + 30) - 30, 2), (lambda x: x + 0, 4)],
    ids=["as eager", "more exactly than eager"],
)
def test_eager_runs_again_where_the_captured_graph_gives_other_numbers(
    captured: Callable[[torch.Tensor], torch.Tensor], runs: int
) -> None:
    seen: list[torch.dtype] = []

    def forward(x: torch.Tensor) -> torch.Tensor:
        seen.append(x.dtype)
        return (x + 30) - 30

    judge = Verifier("final", module(forward), (X,), {}, [X])
    judge.check_capture(graph_of(module(captured), X))
    assert judge.records[0].passed
    assert seen == [torch.float32, torch.float64, torch.float32, torch.float32][:runs]


# -- broken passes, through the whole road ------------------------------------------------------------------------


@dataclass(frozen=True)
class Broken(Pass):
    """Edits every node of one operator by a function of the node and a builder."""

    target: str
    edit: Callable[[torch.fx.Node, GraphBuilder], None]

    def run(self, graph: Graph, context: PassContext) -> list[Rewrite]:
        nodes = [n for n in graph.calls() if op_name(n) == self.target]
        records = [Rewrite.of(self.name, [n]) for n in nodes]
        for node in nodes:
            self.edit(node, GraphBuilder(graph, node))
        return records


def drop_the_mask(node: torch.fx.Node, g: GraphBuilder) -> None:
    assert node.args[3] is not None
    node.update_arg(3, None)


def swap_query_and_key(node: torch.fx.Node, g: GraphBuilder) -> None:
    query, key = node.args[:2]
    node.update_arg(0, key)
    node.update_arg(1, query)


def other_scale(node: torch.fx.Node, g: GraphBuilder) -> None:
    node.update_kwarg("scale", 0.36)  # of heads of size 8: 0.3536


def other_eps(node: torch.fx.Node, g: GraphBuilder) -> None:
    node.update_arg(4, 1e-5)  # where it is 1e-12


def lose_the_residual(node: torch.fx.Node, g: GraphBuilder) -> None:
    if op_name(node.args[0]) == "linear":
        node.replace_all_uses_with(node.args[0])


def other_activation(node: torch.fx.Node, g: GraphBuilder) -> None:
    node.update_kwarg("approximate", "tanh")


def half_precision(node: torch.fx.Node, g: GraphBuilder) -> None:
    narrow = [g.aten._to_copy(a, dtype=torch.bfloat16) for a in node.args]
    wide = g.aten._to_copy(g.aten.linear(*narrow), dtype=torch.float32)
    node.replace_all_uses_with(wide)


def off_by_one_position(node: torch.fx.Node, g: GraphBuilder) -> None:
    node.update_arg(1, g.aten.add.Tensor(node.args[1], 1))


def index_out_of_range(node: torch.fx.Node, g: GraphBuilder) -> None:
    node.update_arg(1, g.aten.add.Tensor(node.args[1], 100_000))


def stale_constant(node: torch.fx.Node, g: GraphBuilder) -> None:
    weight = g.graph.constant(node.args[1])
    node.update_arg(1, g.constant("stale", weight * 1.001, [str(node.args[1].target)]))


MUTANTS: list[tuple[str, Callable[[torch.fx.Node, GraphBuilder], None], str]] = [
    ("scaled_dot_product_attention", drop_the_mask, "G2"),
    ("scaled_dot_product_attention", swap_query_and_key, "G2"),
    ("scaled_dot_product_attention", other_scale, "G2"),
    ("layer_norm", other_eps, "G2"),
    ("add", lose_the_residual, "G2"),
    ("gelu", other_activation, "G2"),
    ("linear", half_precision, "G2"),
    ("embedding", off_by_one_position, "G2"),
    ("embedding", index_out_of_range, "IndexError"),
    ("linear", stale_constant, "G2"),
]


class Marked(Pass):
    """A harmless pass that runs after the broken one."""

    def run(self, graph: Graph, context: PassContext) -> list[Rewrite]:
        (node,) = [n for n in graph.calls() if op_name(n) == "tanh"]
        node.replace_all_uses_with(GraphBuilder(graph, node, made_by=self.name).aten.tanh(node.args[0]))
        return [Rewrite.of(self.name, [node])]


@pytest.mark.parametrize(("target", "edit", "gate"), MUTANTS, ids=[e.__name__ for _, e, _ in MUTANTS])
def test_a_broken_pass_is_rolled_back_alone(
    target: str, edit: Callable[[torch.fx.Node, GraphBuilder], None], gate: str
) -> None:
    model, inputs = Encoder(), tokens(2, 6)
    passes = Pipeline((Broken(target, edit), Marked()))
    fast = txgraph.optimize(model, kwargs=inputs, backend="reference", passes=passes)
    status = {p["name"]: p for p in fast.report.to_dict()["passes"]}
    assert status["broken"]["status"] == "rolled back"
    assert status["broken"]["rewrites"] > 0
    assert status["marked"]["status"] == "applied"
    reason = status["broken"]["reason"]
    assert gate in reason
    if gate == "G2":
        error, bound = re.search(r"G2 output \d: (\S+) > (\S+?)(;|$)", reason).group(1, 2)
        assert float(error) > float(bound) > 0
        assert "FAIL" in str(fast.report)
    with torch.no_grad():
        expected = model(**inputs)
    assert [torch.equal(a, b) for a, b in zip(fast(**inputs), expected, strict=True)] == [True, True]
    (mark,) = [n for n in fast.graph_after.calls() if op_name(n) == "tanh"]
    assert mark.meta["txgraph_passes"] == ("marked",)
    assert fast.graph_after.count() == fast.graph_before.count()


def negate(node: torch.fx.Node, g: GraphBuilder) -> None:
    after = GraphBuilder(g.graph, g.graph.output)
    negative = after.aten.neg(node)
    node.replace_all_uses_with(negative, delete_user_cb=lambda user: user is not negative)


def test_a_broken_pass_at_level_final_is_found_in_the_result() -> None:
    model = MLP()
    fast = txgraph.optimize(
        model, (X, 2.0), backend="reference", verify="final", passes=Pipeline((*BITWISE, Broken("mul", negate)))
    )
    assert torch.equal(fast(X, 2.0), model(X, 2.0))
    assert [f.what for f in fast.report.fallbacks] == ["backend reference"]
    assert "G2 output 0" in fast.report.fallbacks[0].reason
    statuses = {p.name: p.status for p in fast.report.graphs[0].passes}
    assert statuses["broken"] == "rolled back"
    assert str(fast.graph_after) == str(fast.graph_before)


def test_a_broken_pass_at_level_off_is_not_found() -> None:
    model = MLP()
    fast = txgraph.optimize(model, (X,), backend="reference", verify="off", passes=Pipeline((Broken("mul", negate),)))
    assert torch.equal(fast(X), -model(X))
    assert fast.report.to_dict()["verification"] == []


def test_an_output_that_is_a_weight() -> None:
    model = module(lambda x: (weight.clone(), x + 1), weight=(weight := nn.Parameter(torch.ones(3))))
    judge, graph = verifier(model=model)
    judge.check_capture(graph)
    reason = judge.check_backend(lambda tensors: [weight.detach(), tensors[0] + 1])
    assert reason == "G0 output 0: 1 > 0 shares memory with a weight or buffer of the model, eager's does not"
    assert judge.check_backend(lambda tensors: [weight.detach().clone(), tensors[0] + 1]) == ""


def test_a_graph_that_turns_out_wrong_is_never_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong(txgraph.backends.reference.ReferenceBackend):
        def lower(self, graph: Graph, target: txgraph.Target, options: txgraph.BackendOptions) -> object:
            compiled = super().lower(graph, target, options)
            return dataclasses.replace(compiled, run=lambda tensors: [2 * v for v in compiled.run(tensors)])

    monkeypatch.setattr(txgraph.compile, "ReferenceBackend", Wrong)
    monkeypatch.setattr(txgraph.compile, "choose_backend", lambda name: Wrong())
    with pytest.raises(VerificationFailed, match="breaks a gate even where the reference backend runs it: G2"):
        txgraph.optimize(MLP(), (X,), backend="reference")


def test_examples_that_are_not_contiguous() -> None:
    """Runs get them as calls bring them to the graph: contiguous."""
    judge = Verifier("final", MLP(), (X.T.contiguous().T,), {}, [X.T.contiguous().T])
    judge.check_capture(graph_of(MLP(), X))
    seen: list[bool] = []

    def run(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
        seen.append(tensors[0].is_contiguous())
        return [MLP()(tensors[0]).detach()]

    assert judge.check_backend(run) == ""
    assert seen == [True]


def test_references_that_disagree_are_noted() -> None:
    """Of an encoder with a forward of its own, eager leaves padding out, and float64 does not."""

    class Own(nn.TransformerEncoder):
        def forward(self, src: torch.Tensor, src_key_padding_mask: torch.Tensor | None = None) -> torch.Tensor:  # type: ignore[override]
            return super().forward(src, None, src_key_padding_mask)

    torch.manual_seed(0)
    model = Own(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 1).eval()
    padding = torch.arange(6) >= torch.tensor([[6], [3]])
    inputs = {"src": torch.randn(2, 6, 16), "src_key_padding_mask": padding}
    (note,) = txgraph.optimize(model, kwargs=inputs, backend="reference").report.notes[:1]
    assert note.startswith("eager and float64 disagree on output 0 by ")
    assert txgraph.optimize(model, kwargs=inputs, backend="reference", padding="zeros").report.notes == []
    assert txgraph.optimize(model, args=(inputs["src"],), backend="reference").report.notes == []
