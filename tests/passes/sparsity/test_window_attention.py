"""Attention to a window: what its definition says, where it is tried, and what a budget makes of it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import txgraph
from tests.helpers import normal
from tests.lossy.models import applied
from tests.small import find, graph_of, traced
from txgraph import PassContext
from txgraph.ir import Graph, interpret
from txgraph.passes.sparsity.window_attention import WindowAttention
from txgraph.rewrite import LossyContext

Tensor = torch.Tensor
WINDOW = "txgraph::window_attention"
NARROW = WindowAttention(window=3, sinks=2)
X = normal(2, 4, 20, 8)
INDEX = torch.arange(20)
DISTANCE = INDEX[:, None] - INDEX


def attend(**options: Any) -> Any:
    return lambda x: F.scaled_dot_product_attention(x, x, x, scale=0.3, **options)


def within(shown: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(X, X, X, shown, scale=0.3)


SINKS = INDEX[None] < 2
SHOWN = {
    "causal": (attend(is_causal=True), (DISTANCE >= 0) & ((DISTANCE < 3) | SINKS)),
    "both sides": (attend(), (DISTANCE.abs() < 3) | SINKS),
}


@pytest.mark.parametrize(("function", "shown"), SHOWN.values(), ids=SHOWN)
def test_what_it_shows(function: Any, shown: Tensor) -> None:
    graph, (rewrite,) = applied(NARROW, function, X)
    assert graph.count()[WINDOW] == 1
    assert rewrite.values[0][1] == graph.outputs[0].name
    torch.testing.assert_close(interpret(graph, [X])[0], within(shown))


@pytest.mark.parametrize("sinks", [0, 1, 5])
def test_a_window_becomes_narrower(sinks: int) -> None:
    """And shows no key that it did not show before."""

    def function(x: Tensor) -> Tensor:
        index = torch.arange(20)
        result: Tensor = torch.ops.txgraph.window_attention(x, x, x, index - 6, index + 1, sinks, 0.3, False)
        return result

    graph, _ = applied(NARROW, function, X)
    first = INDEX[None] < min(sinks, 2)
    torch.testing.assert_close(interpret(graph, [X])[0], within((DISTANCE >= 0) & ((DISTANCE < 3) | first)))


def test_heads_that_share_keys() -> None:
    graph, _ = applied(NARROW, lambda x: F.scaled_dot_product_attention(x, x[:, :2], x[:, :2], enable_gqa=True), X)
    shared = X[:, :2].repeat_interleave(2, 1)
    expected = F.scaled_dot_product_attention(X, shared, shared, SHOWN["both sides"][1])
    torch.testing.assert_close(interpret(graph, [X])[0], expected)


LEFT: dict[str, Any] = {
    "a mask of data": (lambda x: F.scaled_dot_product_attention(x, x, x, x[:, :1, :, :1] > 0), X),
    "few keys": (attend(), X[:, :, :19]),
    "fewer queries": (lambda x: F.scaled_dot_product_attention(x[:, :, 1:], x, x), X),
    "double": (attend(), X.double()),
    "three axes": (attend(), X[0]),
}


@pytest.mark.parametrize(("function", "x"), LEFT.values(), ids=LEFT)
def test_what_is_left(function: Any, x: Tensor) -> None:
    graph = traced(function, x)
    assert not NARROW.places(graph, LossyContext())
    assert NARROW.run(graph, PassContext(lossy=LossyContext())) == []


def test_settings() -> None:
    for wrong in ({"window": 0}, {"window": 3, "sinks": -1}):
        with pytest.raises(ValueError, match="expected 1 and 0 at least"):
            WindowAttention(**wrong)
    assert WindowAttention(window=64).label == "attention to 64 keys"
    assert WindowAttention(window=64).name == "window-attention"


class Reader(nn.Module):
    """Two layers of attention: queries of the first look at themselves, those of the second at half their index."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(Layer(width, far) for far in (False, True))
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + layer(x)
        return x


class Layer(nn.Module):
    def __init__(self, width: int, far: bool) -> None:
        super().__init__()
        self.value, self.far = nn.Linear(width, width), far

    def forward(self, x: Tensor) -> Tensor:
        """By where keys are, alone: angles that turn with the index."""
        count = x.shape[1]
        at = torch.arange(count)[:, None] * (math.pi / 2 / count)
        key, query = (torch.cat([torch.cos(a), torch.sin(a)], 1) * 20 for a in (at, at / 2 if self.far else at))
        key, query = (side.expand(len(x), 1, -1, -1) for side in (key, query))
        value = self.value(x)[:, None]
        return F.scaled_dot_product_attention(query, key, value, is_causal=True)[:, 0]


def graph_and_places(model: nn.Module, length: int) -> tuple[Graph, set[tuple[str, ...]]]:
    graph = graph_of(model, normal(1, length, 16))
    return graph, set(NARROW.places(graph, LossyContext()).values())


def test_a_place_is_the_same_in_every_graph() -> None:
    model = Reader()
    _, places = graph_and_places(model, 20)
    assert len(places) == 2
    assert graph_and_places(model, 30)[1] == places
    assert graph_and_places(model, 8)[1] == set()


def test_one_place_alone() -> None:
    graph, places = graph_and_places(Reader(), 20)
    one = min(places)
    context = LossyContext(chosen=frozenset({(NARROW, one)}))
    after = graph.copy()
    assert len(NARROW.run(after, PassContext(lossy=context))) == 1
    assert after.count()[WINDOW] == 1
    assert (NARROW, one) in context.prepared
    only_second = WindowAttention(window=3, sinks=2, modules="*layers.1*")
    assert len(only_second.run(graph.copy(), PassContext(lossy=LossyContext()))) == 1


def test_under_a_budget() -> None:
    """A window is used where attention is near, and not where it is far."""
    torch.manual_seed(1)
    data = [torch.randn(2, 64, 16) for _ in range(8)]
    fast = txgraph.optimize(
        Reader(),
        (data[0],),
        passes=txgraph.default_pipeline().append(WindowAttention(window=12)),
        calibration=data,
        budget=txgraph.Budget(relative_error=0.01),
        backend="reference",
    )
    spending = fast.report.budget
    assert spending is not None
    assert [spent.module for spent in spending.spent] == ["layers.0"]
    assert fast.graph_after.count()[WINDOW] == 1
    assert find(fast.graph_after, WINDOW).args[5] == 4
    model = Reader()
    other = torch.randn(2, 64, 16)
    exact = model(other).detach()
    error = (fast(other).detach() - exact).norm() / exact.norm()
    assert 0 < float(error) < 0.01
