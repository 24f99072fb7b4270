"""What one rewrite alone changes, against the whole graph run again with it alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.lossy.models import Mixer, batches
from tests.small import graph_of
from txgraph import PassContext
from txgraph.ir import interpret
from txgraph.ir.linears import Linears
from txgraph.lossy.observe import observe
from txgraph.lossy.sensitivity import probes, squared_errors
from txgraph.passes import default_pipeline
from txgraph.passes.low_rank.low_rank import LowRank
from txgraph.passes.precision.int8 import Int8
from txgraph.passes.sparsity.prune_channels import PruneChannels
from txgraph.rewrite import LossyContext, LossyPass


@pytest.mark.parametrize("each", [Int8(), LowRank(rank=8), PruneChannels(fraction=0.25)], ids=lambda each: each.name)
def test_each_by_itself(each: LossyPass) -> None:
    calls = [[x] for x in batches(2)]
    graph, _ = default_pipeline().run(graph_of(Mixer(), calls[0][0]), PassContext())
    lossy = LossyContext()
    context = PassContext(lossy=lossy)
    treated = graph.copy()
    rewrites = each.run(treated, context)
    assert len(rewrites) >= 2
    places = [each.places(graph, lossy)[rewrite.root] for rewrite in rewrites]
    found = [*squared_errors(graph, probes(graph, treated, rewrites), calls)]
    for place, error in zip(places, found, strict=True):
        assert place is not None
        alone = graph.copy()
        made = each.run(alone, replace(context, lossy=replace(lossy, chosen=frozenset({(each, place)}))))
        assert len(made) == 1
        pairs = [(interpret(alone, call)[0].double(), interpret(graph, call)[0].double()) for call in calls]
        whole = sum(float((a - b).square().sum()) for a, b in pairs) / sum(float(b.square().sum()) for _, b in pairs)
        assert error == pytest.approx(whole, rel=1e-4)
        assert error > 0


def test_moments() -> None:
    calls = [[x] for x in batches(3)]
    graph = graph_of(Mixer(), calls[0][0])
    nodes = [node for node in graph.calls() if Linears.of(node)]
    (group,) = observe(graph, nodes, calls)
    first = group[nodes[0].name]
    x = torch.cat([call[0] for call in calls])
    torch.testing.assert_close(first.moments, x.T @ x / len(x))
    torch.testing.assert_close(first.largest, x.abs().amax(0))
    assert first.rows == len(x)
    assert set(group) == {node.name for node in nodes}


def test_moments_in_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """As much as memory should hold at a time."""
    from txgraph.lossy import observe as module

    calls = [[x] for x in batches(2)]
    graph = graph_of(Mixer(), calls[0][0])
    nodes = [node for node in graph.calls() if Linears.of(node)]
    (whole,) = observe(graph, nodes, calls)
    monkeypatch.setattr(module, "MOST_BYTES", 4 * 64 * 64)
    groups = [*observe(graph, nodes, calls)]
    assert len(groups) > 1
    assert [name for group in groups for name in group] == [*whole]
    for group in groups:
        for name, each in group.items():
            torch.testing.assert_close(each.moments, whole[name].moments)
