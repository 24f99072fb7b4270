"""Pieces that are small beside the layers are not compiled: which they are, and that they compute the same."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel

import txgraph
from tests.helpers import normal
from tests.small import graph_of
from txgraph.backends.calls.eager import Eager
from txgraph.backends.inductor import worth
from txgraph.backends.inductor.worth import not_worth_compiling
from txgraph.backends.pieces import layers, whole
from txgraph.options import Target
from txgraph.verify import check_gates

CPU = Target("cpu")


class Model(nn.Module):
    """Four layers, with a little before and behind them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(nn.Linear(256, 256) for _ in range(4))
        self.head = nn.Linear(256, 3)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = x + x.mean(-1, keepdim=True)
        for layer in self.layers:
            x = torch.tanh(layer(x)) + x
        return x, self.head(x[:, 0]).softmax(-1)


def test_what_stands_around_large_layers() -> None:
    torch.manual_seed(0)
    model, ids = BertModel(BertConfig(num_hidden_layers=12, vocab_size=100)).eval(), torch.randint(100, (1, 128))
    graph = graph_of(model, input_ids=ids)
    pieces = layers(graph, CPU)
    ends = {number for number in range(len(pieces)) if sum(p.like == number for p in pieces) == 1}
    assert len(ends) == 2
    assert not_worth_compiling(graph, pieces, CPU) == ends
    assert not_worth_compiling(graph, pieces, Target("cuda")) == frozenset()
    assert not_worth_compiling(graph, whole(graph), CPU) == frozenset()


def test_all_together_lose_little(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = graph_of(Model().eval(), normal(2, 128, 256))
    pieces = layers(graph, CPU, wanted=True)
    chosen = []
    for loss in (0.0, 0.05, 10.0):
        monkeypatch.setattr(worth, "LARGEST_LOSS", loss)
        chosen.append(not_worth_compiling(graph, pieces, CPU))
    assert chosen[0] == frozenset()
    assert chosen[0] <= chosen[1] <= chosen[2]
    assert chosen[2] == {number for number in range(len(pieces)) if sum(p.like == number for p in pieces) == 1} != set()


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """All that is no layer is small. Gives the pieces that were run so."""
    monkeypatch.setattr(worth, "LARGEST_LOSS", 10.0)
    run: list[Any] = []
    original = Eager.__call__
    monkeypatch.setattr(Eager, "__call__", lambda self, *tensors: run.append(self) or original(self, *tensors))
    return run


def test_a_model_with_such_pieces(small: list[Any]) -> None:
    model = Model().eval()
    fast = txgraph.optimize(model, args=(normal(2, 16, 256),), backend="inductor", options={"layers": True})
    small.clear()
    x = normal(2, 16, 256) + 1
    for ours, theirs in zip(fast(x), model(x), strict=True):
        torch.testing.assert_close(ours, theirs)
    assert len(small) == 2
    assert not fast.report.fallbacks
    assert "torch.ops.aten.softmax" in fast.code()  # as Python, not as C++
    with torch.autocast("cpu", torch.bfloat16):
        ours, theirs = fast(x), model(x)
    oracle = Model().double().eval()(x.double())
    assert [gate for gate in check_gates(ours, theirs, oracle) if not gate.passed] == []


def test_dynamic_sizes(small: list[Any]) -> None:
    model = Model().eval()
    fast = txgraph.optimize(model, backend="inductor", options={"layers": True})
    for rows in (2, 3, 5):
        x = normal(rows, 16, 256)
        torch.testing.assert_close(fast(x)[1], model(x)[1])
    assert len(fast.report.graphs) == 2
    assert small
