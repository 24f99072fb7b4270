"""Which attentions are measured, and what is made of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.export import Dim

import txgraph
from tests.helpers import normal
from tests.padded import RIGHT, Encoder, assert_close, ids, keys, mean
from tests.small import graph_of, traced
from txgraph.backends.calls import attention
from txgraph.ir import check_spec, interpret

NATIVE, TORCH = "txgraph::attention_native", "scaled_dot_product_attention"
Q, K, V = normal(2, 6, 5, 8), normal(2, 3, 7, 8), normal(2, 3, 7, 4)


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every measurement says that our kernel is faster; what was to be measured."""
    names: list[str] = []

    def decided(ways: dict[str, Callable[[], object]], seconds: float, about: str) -> tuple[str, str]:
        for way in ways.values():
            way()
        names.extend(ways)
        return "txgraph", "measured"

    monkeypatch.setattr(attention, "fastest", decided)
    return names


FORMS: dict[str, tuple[Callable[..., Any], tuple[Any, ...], str]] = {
    "plain": (lambda q, k, v: F.scaled_dot_product_attention(q, q, q), (Q, K, V), "2x6x5x5x8"),
    "grouped": (lambda q, k, v: F.scaled_dot_product_attention(q, k, v, enable_gqa=True), (Q, K, V), "2x6/3x5x7x8"),
    "causal": (lambda q, k, v: F.scaled_dot_product_attention(q, q, q, is_causal=True), (Q, K, V), "2x6x5x5x8, causal"),
    "scaled": (lambda q, k, v: F.scaled_dot_product_attention(k, k, v, scale=0.3), (Q, K, V), "2x3x7x7x8"),
    "bias": (lambda q, k, m: F.scaled_dot_product_attention(k, k, k, m), (Q, K, normal(7, 7)), "2x3x7x7x8, mask"),
    "boolean": (
        lambda q, k, m: F.scaled_dot_product_attention(k, k, k, m > 0),
        (Q, K, normal(2, 1, 1, 7)),
        "2x3x7x7x8, boolean mask",
    ),
}


@pytest.mark.parametrize(("function", "inputs", "name"), FORMS.values(), ids=FORMS)
def test_what_is_replaced(function: Callable[..., Any], inputs: tuple[Any, ...], name: str, tried: list[str]) -> None:
    graph = traced(function, *inputs)
    assert attention.choose_attention(graph) == {f"attention {name}": "measured"}
    assert tried == ["aten", "txgraph"]
    check_spec(graph)
    assert graph.count()[NATIVE] == 1
    assert TORCH not in graph.count()
    torch.testing.assert_close(interpret(graph, list(inputs))[0], function(*inputs))


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return F.scaled_dot_product_attention(q, k, v)


LEFT_ALONE: dict[str, tuple[torch.Tensor, ...]] = {
    "double": (Q.double(), Q.double(), Q.double()),
    "bfloat16": (Q.bfloat16(), Q.bfloat16(), Q.bfloat16()),
    "three axes": (Q[0], Q[0], Q[0]),
    "one batch for many": (Q, Q[:1], Q[:1]),
    "one head of keys for many of values": (Q, Q[:, :1], Q),
    "no keys": (Q, Q[:, :, :0], Q[:, :, :0]),
}


@pytest.mark.usefixtures("tried")
@pytest.mark.parametrize("inputs", LEFT_ALONE.values(), ids=LEFT_ALONE)
def test_what_is_left_alone(inputs: tuple[torch.Tensor, ...]) -> None:
    graph = traced(attend, *inputs)
    text = str(graph)
    assert attention.choose_attention(graph) == {}
    assert str(graph) == text


def test_torchs_own_stays_where_it_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "fastest", lambda ways, *_: ("aten", "measured"))
    graph = traced(attend, Q, Q, Q)
    assert attention.choose_attention(graph) == {"attention 2x6x5x5x8": "measured"}
    assert graph.count() == {TORCH: 1}


def test_equal_shapes_are_measured_once(tried: list[str]) -> None:
    graph = traced(lambda q: F.scaled_dot_product_attention(F.scaled_dot_product_attention(q, q, q), q, q), Q)
    attention.choose_attention(graph)
    assert tried == ["aten", "txgraph"]
    assert graph.count() == {NATIVE: 2}


@pytest.mark.usefixtures("tried")
def test_sizes_that_vary() -> None:
    shapes = ({0: Dim("B", max=9), 2: Dim("S", max=99)},)
    graph = graph_of(lambda q: F.scaled_dot_product_attention(q, q, q), Q, dynamic_shapes=shapes).copy()
    assert list(attention.choose_attention(graph)) == ["attention 2x6x5x5x8"]
    for batch, length in ((3, 2), (2, 40)):
        q = normal(batch, 6, length, 8)
        torch.testing.assert_close(interpret(graph, [q])[0], F.scaled_dot_product_attention(q, q, q))


@pytest.mark.usefixtures("tried")
@pytest.mark.parametrize("layers", [True, False], ids=["layers", "whole"])
def test_compiled(layers: bool) -> None:
    """Padded and packed: the projections' results are read where they are."""
    model, mask = Encoder(keys, mean), RIGHT
    for padding in ("exact", "zeros"):
        fast = txgraph.optimize(
            model, kwargs={"ids": ids(), "mask": mask}, padding=padding, backend="inductor", options={"layers": layers}
        )
        assert not fast.report.fallbacks
        assert_close(fast(ids(), mask), model(ids(), mask))
    assert "ragged_attention_native" in fast.code()
    dense = torch.ones_like(mask)
    assert_close(fast(ids(), dense), model(ids(), dense))
    assert "txgraph.attention_native" in fast.code()
