"""Rewrites that are measured: what is slower is left out by itself, and the report says so. No times are asserted."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.export import Dim

import txgraph
from tests.small import graph_of
from txgraph import PassContext, measure
from txgraph.backends import Compiled
from txgraph.backends.reference import ReferenceBackend
from txgraph.cost.measurement import MARGIN, Measurement
from txgraph.ir import Graph
from txgraph.options import BackendOptions, Target
from txgraph.passes.fuse.fuse_shared_input_linears import FuseSharedInputLinears
from txgraph.passes.fuse.merge_attention_heads import MergeAttentionHeads
from txgraph.pipeline import PassResult

Tensor = torch.Tensor
X = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0))
JOIN = txgraph.Pipeline((FuseSharedInputLinears(),))


class Gates(nn.Module):
    """Two linears of one value: a place for fuse-shared-input-linears."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(width, 16), nn.Linear(width, 16)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x) * self.b(x)


def layers(*widths: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(*map(Gates, widths)).eval()


@pytest.fixture
def times(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, float]]:
    """What the next measurements give: seconds before and after; all that is measured is run once."""
    given: list[tuple[float, float]] = []

    def take(*functions: Callable[[], object], seconds: float) -> list[float]:
        for function in functions:
            function()
        return list(given.pop(0))

    monkeypatch.setattr(measure, "best_seconds", take)
    return given


def optimized(model: nn.Module, **options: Any) -> txgraph.OptimizedModel:
    options = {"backend": "reference", "passes": JOIN, "measure": "rewrites", **options}
    fast = txgraph.optimize(model, args=(X,), **options)
    torch.testing.assert_close(fast(X), model(X))
    return fast


def test_what_is_slower_is_left_out_by_itself(times: list[tuple[float, float]]) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.narrow, self.wide = Gates(), nn.Sequential(nn.Linear(16, 32), Gates(32))

        def forward(self, x: Tensor) -> Tensor:
            return self.narrow(x) + self.wide(x)

    times += [(1e-4, 2e-4), (2e-4, 1e-4)]
    fast = optimized(Two().eval())
    assert times == []
    assert fast.graph_after.count()["txgraph::linears"] == 1
    (record,) = fast.report.to_dict()["passes"]
    (root, reason) = next(iter(record["left_out"].items()))
    assert (record["status"], record["rewrites"], len(record["left_out"])) == ("applied", 1, 1)
    assert reason == "no gain: measured 200.0 µs instead of 100.0 µs"
    slow, quick = fast.report.to_dict()["measurements"]
    assert (slow["pays"], quick["pays"]) == (False, True)
    assert slow["root"] == root
    assert "measured 200.0 µs instead of 100.0 µs, left out" in str(fast.report)
    assert "measured 100.0 µs instead of 200.0 µs, kept" in str(fast.report)
    (miss,) = fast.explain("fuse-shared-input-linears").near_misses
    assert (miss.root, miss.reason) == (root, reason)
    assert len(fast.explain("fuse-shared-input-linears").rewrites) == 1


@pytest.mark.parametrize(("after", "kept"), [(0.99, True), (1 + MARGIN / 2, True), (1 + 2 * MARGIN, False)])
def test_a_little_slower_may_be_noise(times: list[tuple[float, float]], after: float, kept: bool) -> None:
    times.append((1.0, after))
    assert ("txgraph::linears" in optimized(layers(16)).graph_after.count()) is kept


def test_equal_places_are_measured_once(times: list[tuple[float, float]]) -> None:
    times += [(2.0, 1.0)]
    (measured,) = optimized(layers(16, 16, 16)).report.graphs[0].measurements
    assert (measured.places, measured.rule) == (3, "fuse-shared-input-linears")


def test_weights_that_are_mostly_zeros_are_measured_by_themselves(times: list[tuple[float, float]]) -> None:
    """They may be computed without the zeros, before or after."""
    model = layers(16, 16, 16)
    with torch.no_grad():
        model[1].a.weight[:, 1:] = 0
    times += [(2.0, 1.0), (2.0, 1.0)]
    assert [m.places for m in optimized(model).report.graphs[0].measurements] == [2, 1]


def test_without_asking_nothing_is_measured(times: list[tuple[float, float]]) -> None:
    fast = optimized(layers(16), measure="off")
    assert "measure" not in fast.report.graphs[0].seconds
    assert fast.report.to_dict()["measurements"] == []


class Capped(txgraph.RewritePass):
    """neg(neg(x)) -> x * 1; predicted to be a loss."""

    def pattern(self, p: Any) -> Any:
        return p.aten.neg(p.aten.neg(p.any("x")))

    def gain(self, match: Any, made: Any) -> float:
        return -1.0

    def rewrite(self, match: Any, g: Any) -> Any:
        return g.aten.mul(match["x"], 1.0)


class Negated(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.neg().neg()


@pytest.mark.parametrize("level", ["off", "rewrites"])
def test_a_measurement_stands_for_the_prediction(times: list[tuple[float, float]], level: str) -> None:
    times += [(2.0, 1.0)]
    fast = optimized(Negated(), measure=level, passes=txgraph.Pipeline((Capped(),)))
    assert fast.graph_after.count() == ({"mul": 1} if level == "rewrites" else {"neg": 2})


def test_what_only_removes_is_timed_against_nothing() -> None:
    class Removing(Capped):
        def rewrite(self, match: Any, g: Any) -> Any:
            return match["x"]

    class Wrapped(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.sin().neg().neg().cos()

    fast = optimized(Wrapped(), passes=txgraph.Pipeline((Removing(),)))
    (measured,) = fast.report.graphs[0].measurements
    assert measured.after < measured.before
    assert fast.graph_after.count() == {"cos": 1, "sin": 1}


def test_what_cannot_be_measured_is_predicted() -> None:
    measured = Measurement("rule", "root", 2e-6, 1e-6, problem="it has no tensors")
    assert measured.pays
    assert str(measured) == "predicted 1.0 µs instead of 2.0 µs, not measured: it has no tensors"
    assert not Measurement("rule", "root", 1e-6, 2e-6, problem="it has no tensors").pays


def test_what_goes_with_a_rewrite_counts_as_removed() -> None:
    """The heads are not of the pattern, which starts at their concatenation; without them nothing uses them."""

    class Heads(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            heads = [F.scaled_dot_product_attention(h, h, h) for h in x.split(4, -1)]
            return torch.cat(heads, -1)

    lowered: list[dict[str, int]] = []

    class Spy(ReferenceBackend):
        def lower(self, graph: Graph, target: Target, options: BackendOptions) -> Compiled:
            lowered.append(graph.count())
            return super().lower(graph, target, options)

    graph = graph_of(Heads().eval(), X)
    context = PassContext(weighs=False)
    after, (record,) = txgraph.Pipeline((MergeAttentionHeads(),)).run(graph, context)
    timer = measure.RewriteTimer(Spy(), Target("cpu"), BackendOptions())
    timer.slower(PassResult(MergeAttentionHeads(), graph, after, record.rewrites, context))
    assert lowered[0]["scaled_dot_product_attention"] == 4
    assert lowered[1]["scaled_dot_product_attention"] == 1


def test_a_part_that_takes_no_tensor_is_not_measured() -> None:
    class Pieces(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.split(8, -1)[1].neg().neg()

    class Last(Capped):
        def pattern(self, p: Any) -> Any:
            return p.aten.neg(p.aten.neg(p.item(p.any("x"), 1)))

        def rewrite(self, match: Any, g: Any) -> Any:
            return g.aten.mul(g.call(operator.getitem, match["x"], 1), 1.0)

    fast = optimized(Pieces(), passes=txgraph.Pipeline((Last(),)))
    (measured,) = fast.report.graphs[0].measurements
    assert measured.problem.startswith("it takes %split")
    assert measured.before > measured.after > 0, "two operators, and one"
    assert fast.graph_after.count()["mul"] == 1


def test_sizes_that_vary() -> None:
    """Measured at those of the example."""
    fast = optimized(layers(16), dynamic_shapes=({0: Dim("B"), 1: Dim("S")},))
    (measured,) = fast.report.graphs[0].measurements
    assert measured.problem == ""
    assert measured.before > 0
    assert measured.after > 0


def test_compiled_by_the_real_backend() -> None:
    fast = optimized(layers(16), backend="inductor")
    (measured,) = fast.report.graphs[0].measurements
    assert 0 < measured.before < 1
    assert 0 < measured.after < 1
    assert fast.report.graphs[0].seconds["measure"] > 0.2


def test_unknown_levels() -> None:
    with pytest.raises(ValueError, match="unknown measure 'all': expected one of"):
        txgraph.optimize(layers(16), measure="all")
