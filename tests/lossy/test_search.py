"""Budgets spent on whole models: kept on data that chose nothing, used where they allow it, deterministic."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import txgraph
from tests.lossy.models import Mixer, batches, spent, timed_by_table  # noqa: F401  (a fixture)
from txgraph import Budget, candidates, compression
from txgraph.ir import Graph
from txgraph.lossy import findings, search, sensitivity
from txgraph.lossy.search import AIM
from txgraph.lossy.subject import Subject
from txgraph.passes import PruneChannels, Then, lossy_methods
from txgraph.passes.low_rank.low_rank import LowRank
from txgraph.passes.precision.bfloat16 import BFloat16
from txgraph.passes.precision.int8 import Int8
from txgraph.passes.precision.weight_only import WeightOnly
from txgraph.rewrite import LossyContext, LossyPass
from txgraph.verify.oracle import reference

pytestmark = pytest.mark.usefixtures("timed_by_table")
Tensor = torch.Tensor


class Tower(nn.Module):
    """Many places."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(nn.Linear(32, 32) for _ in range(12))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + torch.relu(layer(x))
        return x


def error_of(fast: nn.Module, model: nn.Module, data: list[Tensor]) -> float:
    """Relative to float64 eager, over all batches; by other code than the product's."""
    wrong = size = 0.0
    for x in data:
        truth = reference(model, (x,), {}).oracle[0]
        wrong += float((fast(x).double() - truth).square().sum())
        size += float(truth.square().sum())
    return (wrong / size) ** 0.5


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("limit", [0.002, 0.01, 0.05])
def test_it_is_kept_on_data_that_nobody_has_seen(seed: int, limit: float) -> None:
    model = Mixer(seed)
    fast = spent(model, batches(seed=seed), Budget(relative_error=limit, seed=seed))
    found = fast.report.budget
    assert found is not None
    assert found.used <= 1
    assert found.spent, "something is possible at each of these"
    assert error_of(fast, model, batches(seed=100 + seed)) <= limit
    assert fast.report.fallbacks == []


def test_what_the_report_says_is_what_the_model_does() -> None:
    model, data = Mixer(), batches()
    fast = spent(model, data, Budget(relative_error=0.02))
    found = fast.report.budget
    assert found is not None
    measured = (found.held_out.relative_error, found.chosen_by.relative_error)
    assert min(measured) <= error_of(fast, model, data) <= max(measured)  # of all calls: those and the others
    assert sum(each.share for each in found.spent) == pytest.approx(1)
    assert found.calls == (4, 4)
    assert {each.module for each in found.spent} <= {"up.0", "up.1", "down.0", "down.1"}
    assert "held out" in str(fast.report)
    assert fast.report.to_dict()["graphs"][0]["budget"]["limits"] == {"relative_error": 0.02}


def test_a_looser_budget_is_never_slower() -> None:
    model, data = Mixer(), batches()
    saved = []
    for limit in (0.001, 0.004, 0.016, 0.064, 0.25):
        found = spent(model, data, Budget(relative_error=limit)).report.budget
        assert found is not None
        saved.append(found.path[0].seconds - found.path[found.at].seconds)
    assert saved == pytest.approx(sorted(saved))
    assert saved[-1] > saved[0]


def test_it_is_deterministic() -> None:
    model, data = Mixer(), batches()
    one, two = (spent(model, data, Budget(relative_error=0.02)) for _ in range(2))
    assert one.report.budget is not None
    assert two.report.budget is not None
    assert one.report.budget.spent == two.report.budget.spent
    assert torch.equal(one(data[0]), two(data[0]))


def test_other_limits() -> None:
    model, data = Mixer(), batches()
    for budget in (Budget(sqnr_db=40), Budget(top1_agreement=0.95), Budget(relative_error=0.05, top1_agreement=1.0)):
        found = spent(model, data, budget).report.budget
        assert found is not None
        assert found.used <= 1
        assert budget.used(found.held_out) <= 1


def test_a_metric_of_the_users_own() -> None:
    model, data = Mixer(), batches()
    truth = model(data[0])
    asked = []

    def score(candidate: nn.Module) -> float:
        asked.append(candidate)
        return -float((candidate(data[0]) - truth).norm() / truth.norm())

    found = spent(model, data, Budget(metric=score, max_drop=0.02)).report.budget
    assert found is not None
    assert found.spent
    assert asked[0] is model
    assert found.score is not None
    assert -0.02 <= found.score < 0


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        (lambda model: 1 / 0, "the budget's metric raised ZeroDivisionError"),
        (lambda model: float("nan"), "the budget's metric gave NaN"),
        (lambda model: model(torch.ones(3, 5, 32)).sum(), "metric .*form that no batch of the calibration has"),
    ],
)
def test_metrics_that_fail(metric: Any, message: str) -> None:
    model = Mixer()
    before = [p.clone() for p in model.parameters()]
    with pytest.raises(txgraph.TxgraphError, match=message):
        spent(model, batches(), Budget(metric=metric, max_drop=0.1))
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_a_budget_that_not_even_the_exact_model_keeps() -> None:
    with pytest.raises(ValueError, match=r"cannot be kept: .*The smallest relative_error that can be reached is about"):
        spent(Mixer(), batches(), Budget(relative_error=1e-12))


def test_by_hand() -> None:
    """A lossy pass of the pipeline is used wherever it fits, also where it saves no time."""
    model, data = Mixer(), batches()
    passes = txgraph.default_pipeline().append(LowRank(rank=12, modules="down.*"))
    fast = spent(model, data, Budget(relative_error=0.9), passes=passes)
    assert [p.name for p in fast.report.graphs[0].passes if p.lossy] == ["low-rank"]
    found = fast.report.budget
    assert found is not None
    assert sorted(each.module for each in found.spent) == ["down.0", "down.1"]
    assert {tuple(t.shape) for n, t in fast.graph_after.constants.items() if n.endswith("_V")} == {(12, 64)}
    assert {rewrite.rule for rewrite in fast.explain("low-rank").rewrites} == {"low-rank"}
    with pytest.raises(ValueError, match=r"low-rank is lossy: say how far it may go, by budget= and calibration="):
        txgraph.optimize(model, passes=passes)


def test_by_hand_over_the_budget() -> None:
    passes = txgraph.default_pipeline().append(LowRank(rank=1))
    found = spent(Mixer(), batches(), Budget(relative_error=0.01), passes=passes).report.budget
    assert found is not None
    assert found.spent == ()
    assert found.stopped


def test_nothing_lossy_without_a_budget() -> None:
    fast = txgraph.optimize(Mixer(), (batches()[0],), backend="reference")
    assert fast.report.budget is None
    assert not any(p.lossy for p in fast.report.graphs[0].passes)


def test_a_rewrite_whose_kernel_is_wrong_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a rewrite is compiled to is judged by itself, on what flows into it."""
    from txgraph.backends.reference import ReferenceBackend

    right = ReferenceBackend.lower

    def lower(self: Any, graph: Any, target: Any, options: Any) -> Any:
        wrong = graph.copy()
        for node in wrong.calls():
            if node.target is torch.ops.txgraph.int8_linears.default:
                values, scales, *rest = node.args
                node.args = (values, scales, rest[0], rest[1], [None] * len(rest[2]), rest[3])  # forgets the bias
        return right(self, wrong, target, options)

    monkeypatch.setattr(ReferenceBackend, "lower", lower)
    passes = txgraph.default_pipeline().append(Int8())
    fast = spent(Mixer(), batches(), Budget(relative_error=0.2), passes=passes)
    found = fast.report.budget
    assert found is not None
    assert found.spent == ()
    assert any("as compiled it breaks a gate" in note for note in found.notes)


def test_a_changed_weight_is_searched_anew() -> None:
    model, data = Mixer(), batches()
    fast = spent(model, data, Budget(relative_error=0.02))
    with torch.no_grad():
        model.up[0].weight.mul_(3)
    fast(data[0])
    assert any("was changed in place" in note for note in fast.report.notes)
    assert error_of(fast, model, batches(seed=9)) <= 0.02


def test_another_shape_is_under_the_budget_too() -> None:
    model, data = Mixer(), batches()
    fast = spent(model, data, Budget(relative_error=0.02))
    other = batches(3, seed=5, rows=7)
    assert error_of(fast, model, other) <= 0.02
    assert len(fast.report.graphs) == 2
    assert all(graph.spending is not None and graph.spending.spent for graph in fast.report.graphs)


def test_batches_of_other_sizes() -> None:
    """A graph of dynamic sizes takes them; one of size 1 it does not, which is said."""
    data = [*batches(5), *batches(2, seed=1, rows=9), *batches(1, seed=2, rows=1)]
    found = spent(Mixer(), data, Budget(relative_error=0.02)).report.budget
    assert found is not None
    assert sum(found.calls) == 7
    assert "1 of the 8 batches of the calibration have sizes of their own: not used" in found.notes


def test_the_time_limit() -> None:
    started = time.monotonic()
    fast = spent(Mixer(), batches(), Budget(relative_error=0.02, seconds=1e-3))
    found = fast.report.budget
    assert found is not None
    assert found.stopped.startswith("the time limit of 0.001 s")
    assert found.used <= 1
    assert time.monotonic() - started < 60
    fast(batches()[0])


def test_methods_have_names_of_their_own() -> None:
    labels = [method.label for method in lossy_methods()]
    assert len(set(labels)) == len(labels)
    assert AIM < 1


def test_weights_are_known_by_their_values() -> None:
    """Also where a tensor comes to lie where another one was."""
    context = LossyContext()
    seen = set()
    for at in range(20):
        seen.add(context.place([torch.full((64, 64), float(at))]))
    assert len(seen) == 20
    weight = torch.ones(4, 4)
    before = context.place([weight])
    assert context.place([weight.clone()]) == before
    weight.mul_(2)
    assert context.place([weight]) != before
    with torch.inference_mode():
        assert context.place([torch.ones(4, 4)]) == before


def test_what_is_hopeless_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights of full rank: the decomposition is made once; and what is pruned too far is not rounded as well."""
    tried: list[tuple[LossyPass, int]] = []

    def counted(method: LossyPass, graph: Graph, context: Any, lossy: LossyContext, chosen: Any) -> Any:
        if graph is not None and chosen:
            tried.append((method, len(chosen)))
        return run(method, graph, context, lossy, chosen)

    run = candidates.run_method
    monkeypatch.setattr(candidates, "run_method", counted)
    half, ranks = PruneChannels(fraction=0.5), (LowRank(error=0.1), LowRank(error=0.02))
    methods = (*ranks, half, Then(half, Int8()), *(Then(rank, Int8()) for rank in ranks))
    model, data = Mixer(), batches()
    pipeline = txgraph.default_pipeline()
    for method in methods:
        pipeline = pipeline.append(method)
    found = spent(model, data, Budget(relative_error=0.01), passes=pipeline).report.budget
    assert found is not None
    assert found.spent == ()
    assert {method for method, _ in tried} == {ranks[0], half}


def test_what_is_slower_is_not_prepared_from_the_calibration(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its time is measured with weights that are made for that alone."""
    seen: dict[str, list[str]] = {"int8": [], "weight-only": []}
    for method in (Int8, WeightOnly):
        for name, real in (("prepare", method.prepare), ("draft", method.draft)):

            def watched(self: Any, *args: Any, name: str = name, real: Any = real) -> Any:
                seen[self.name].append(name)
                return real(self, *args)

            monkeypatch.setattr(method, name, watched)
    spent(Mixer(), batches(), Budget(relative_error=0.02))
    assert set(seen["weight-only"]) == {"draft"}
    assert set(seen["int8"]) == {"draft", "prepare"}


def test_what_is_slower_is_tried_where_the_fastest_do_not_all_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where shapes tell: int8 takes half as long as bfloat16, and is less exact."""
    tried: list[LossyPass] = []
    keep = findings.Findings.keep

    def kept(self: Any, what: str, **numbers: Any) -> None:
        tried.extend(each for each in methods if what.startswith("error ") and repr(each) in what)
        keep(self, what, **numbers)

    methods = (BFloat16(), Int8(migration=0.5), Int8(migration=0.75))
    monkeypatch.setattr(findings.Findings, "keep", kept)
    monkeypatch.setattr(compression, "lossy_methods", lambda: methods)
    for limit, expected in ((0.1, {"int8, migration 0.5"}), (0.002, {each.label for each in methods})):
        tried.clear()
        spending = spent(Mixer(), batches(), Budget(relative_error=limit)).report.budget
        assert spending is not None
        assert {each.label for each in tried} == expected
        assert spending.at
        with monkeypatch.context() as patch:
            patch.setattr(candidates.Singles, "_fits", lambda *_: False)  # all are measured
            everything = spent(Mixer(), batches(), Budget(relative_error=limit)).report.budget
        assert everything is not None
        assert everything.path[everything.at].seconds == pytest.approx(spending.path[spending.at].seconds)


def test_the_time_limit_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock that only what takes long moves: time is left to measure, to try, and to accept what was found."""
    now = [0.0]

    def slow(owner: Any, name: str, seconds: float) -> None:
        real = getattr(owner, name)

        def taking(*args: Any, **options: Any) -> Any:
            now[0] += seconds
            return real(*args, **options)

        monkeypatch.setattr(owner, name, taking)

    for module in (search, compression):
        monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    for method in (Int8, BFloat16, LowRank):
        slow(method, "prepare", 0.1)
    slow(sensitivity, "_changed", 1.0)
    slow(Subject, "truth", 0.5)
    model = Tower()
    whole = spent(model, batches(), Budget(relative_error=0.005)).report.budget
    assert whole is not None
    assert not whole.stopped.startswith("the time limit")
    for share in (0.4, 0.6, 0.8):
        limit = share * whole.seconds
        found = spent(model, batches(), Budget(relative_error=0.005, seconds=limit)).report.budget
        assert found is not None
        assert found.stopped.startswith("the time limit")
        assert found.seconds <= 1.1 * limit
        assert found.spent, "the best so far is taken"
