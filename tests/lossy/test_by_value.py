"""Where time depends on values, a rewrite is timed on those of the calibration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import txgraph
from tests.helpers import normal
from tests.small import graph_of
from txgraph import PassContext, compression, measure
from txgraph.backends import Compiled
from txgraph.backends.reference import ReferenceBackend
from txgraph.cost import Measurement
from txgraph.ir import Graph
from txgraph.options import BackendOptions, Target
from txgraph.passes.sparsity.threshold_attention import ThresholdAttention
from txgraph.pipeline import PassResult
from txgraph.rewrite import LossyContext

Tensor = torch.Tensor
ABOVE = ThresholdAttention(threshold=0.01)


class Twice(nn.Module):
    """Attention of the input, then of twice that."""

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(2):
            x = F.scaled_dot_product_attention(x, x * 2, x)
        return x


def applied(graph: Graph) -> PassResult:
    after = graph.copy()
    context = PassContext(lossy=LossyContext())
    rewrites = ABOVE.run(after, context)
    after.eliminate_dead_code()
    return PassResult(ABOVE, graph, after, tuple(rewrites), context)


def test_the_timer_runs_on_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut or repeated to the sizes of the graph; one compiled form serves all places that are alike."""
    seen: list[list[Tensor]] = []
    lowered: list[dict[str, int]] = []

    class Spy(ReferenceBackend):
        def lower(self, graph: Graph, target: Target, options: BackendOptions) -> Compiled:
            lowered.append(graph.count())
            return super().lower(graph, target, options)

    def best_seconds(*runs: Any, seconds: float) -> list[float]:
        for run in runs:
            run()
        return [2.0, 1.0]

    monkeypatch.setattr(measure, "best_seconds", best_seconds)
    timer = measure.RewriteTimer(Spy(), Target("cpu"), BackendOptions())
    compiled = measure.RewriteTimer._lowered

    def spied(self: measure.RewriteTimer, part: Graph, again: bool) -> Any:
        made = compiled(self, part, again)

        class Seen:
            def run(self, inputs: list[Tensor]) -> Any:
                seen.append([each.clone() for each in inputs])
                return made.run(inputs)

        return Seen()

    monkeypatch.setattr(measure.RewriteTimer, "_lowered", spied)
    result = applied(graph_of(Twice(), normal(3, 2, 300, 4)))
    roots = [rewrite.root for rewrite in result.rewrites]
    values = {}
    for number, root in enumerate(roots, 1):
        (node,) = (n for n in result.before.nodes if n.name == root)
        small = torch.arange(2 * 2 * 200 * 4).reshape(2, 2, 200, 4) * float(number)
        values[root] = dict.fromkeys((source.name for source in node.all_input_nodes), small)
    times = dict(timer.times(result, values))
    assert list(times) == roots
    assert [list(each) for each in lowered] == [["scaled_dot_product_attention"], ["txgraph::threshold_attention"]]
    assert len(seen) == 4, "before and after, at two places"
    for number, inputs in enumerate(seen):
        expected = values[roots[number // 2]]
        given = next(iter(expected.values()))
        for each in inputs:
            torch.testing.assert_close(each[:2, :, :200], given)
            torch.testing.assert_close(each[2, :, 200:], given[0, :, :100])


def test_a_search_gives_what_flows_there(monkeypatch: pytest.MonkeyPatch) -> None:
    data = [normal(1, 2, 256, 4) * (at + 1) for at in range(4)]
    given: dict[str, Mapping[str, Tensor]] = {}

    class Timer:
        def __init__(self, *_: object) -> None: ...

        def times(self, result: PassResult, values: Any = None) -> Iterator[tuple[str, Measurement]]:
            given.update(values)
            for rewrite in result.rewrites:
                yield rewrite.root, Measurement(rewrite.rule, rewrite.root, 2.0, 1.0)

    monkeypatch.setattr(compression, "RewriteTimer", Timer)
    fast = txgraph.optimize(
        Twice(),
        (data[0],),
        passes=txgraph.default_pipeline().append(ABOVE),
        calibration=data,
        budget=txgraph.Budget(relative_error=0.5),
        backend="reference",
    )
    assert fast.report.budget is not None
    assert len(fast.report.budget.spent) == 2
    first, second = given.values()
    x = next(each for each in data if any(each.equal(value) for value in first.values()))
    assert any(value.equal(x * 2) for value in first.values())
    between = F.scaled_dot_product_attention(x, x * 2, x)
    assert sorted(float(value.norm() / between.norm()) for value in second.values()) == pytest.approx([1.0, 2.0])
