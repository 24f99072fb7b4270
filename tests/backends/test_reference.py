"""The reference backend interprets, whatever happens to the graph that it was given."""

from __future__ import annotations

import torch

from tests.small import MLP, graph_of
from txgraph import BackendOptions, Target
from txgraph.backends.reference import ReferenceBackend

X = torch.linspace(-1, 1, 8).reshape(2, 4)


def test_it_interprets_its_own_copy() -> None:
    model = MLP()
    graph = graph_of(model, X)
    compiled = ReferenceBackend().lower(graph, Target("cpu"), BackendOptions())
    assert compiled.code == str(graph)
    assert compiled.choices == {}
    graph.output.args = ((),)
    assert torch.equal(compiled.run([X])[0], model(X))


def test_it_takes_every_graph() -> None:
    backend = ReferenceBackend()
    assert backend.name == "reference"
    assert backend.unsupported(graph_of(MLP(), X), Target("cuda")) == []
    assert backend.fused_activations(Target("cpu")) == frozenset()
