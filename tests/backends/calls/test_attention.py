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
from tests.small import apply, find, graph_of, traced
from txgraph.backends.calls import attention
from txgraph.backends.calls.windows import keys_seen, with_mask
from txgraph.ir import Graph, GraphBuilder, check_spec, interpret
from txgraph.passes.fold.eliminate_common_subexpressions import EliminateCommonSubexpressions

WINDOW = "txgraph::window_attention"
THRESHOLD = "txgraph::threshold_attention"
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


def in_windows(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Each query sees itself and the two keys before it."""
    end = torch.arange(q.shape[2]) + 1
    result: torch.Tensor = torch.ops.txgraph.window_attention(q, k, v, end - 3, end, 0, 0.3, q.shape[1] != k.shape[1])
    return result


@pytest.mark.parametrize("inputs", [(Q, Q, Q), (Q, K, V)], ids=["", "grouped"])
def test_windows(inputs: tuple[torch.Tensor, ...], tried: list[str]) -> None:
    graph = traced(in_windows, *inputs)
    (name,) = attention.choose_attention(graph)
    assert name.endswith("2 keys seen"), "1, 2, 3, 3 and 3 of them"
    assert tried == ["aten", "txgraph"]
    check_spec(graph)
    assert graph.count()[f"{WINDOW}_native"] == 1
    assert WINDOW not in graph.count()
    torch.testing.assert_close(interpret(graph, list(inputs))[0], in_windows(*inputs))


def above_threshold(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    grouped = q.shape[1] != k.shape[1]
    result: torch.Tensor = torch.ops.txgraph.threshold_attention(q, k, v, None, False, 0.3, grouped, 0.4)
    return result


def test_thresholds(tried: list[str]) -> None:
    """Our kernel alone knows them; what it does not take stays as it is defined."""
    for inputs, made in (((Q, K, V), THRESHOLD + "_native"), ((Q.double(), K.double(), V.double()), THRESHOLD)):
        graph = traced(above_threshold, *inputs)
        assert attention.choose_attention(graph) == {}
        assert not tried
        check_spec(graph)
        assert graph.count()[made] == 1
        torch.testing.assert_close(interpret(graph, list(inputs))[0], above_threshold(*inputs))


def test_windows_that_torchs_kernel_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """By one mask for all layers; also where nothing is measured, as of other dtypes."""
    monkeypatch.setattr(attention, "fastest", lambda ways, *_: ("aten", "measured"))
    twice = lambda q: in_windows(in_windows(q, q, q), q, q)  # noqa: E731
    for q in (Q, Q.double(), Q.bfloat16()):
        graph = traced(twice, q)
        graph, _ = apply(EliminateCommonSubexpressions(), graph)
        attention.choose_attention(graph)
        check_spec(graph)
        assert (graph.count()[TORCH], graph.count()["logical_and"]) == (2, 1)
        torch.testing.assert_close(interpret(graph, [q])[0], twice(q))


def test_sinks() -> None:
    """The mask of torch's kernel has them, and they count."""

    def function(q: torch.Tensor) -> torch.Tensor:
        end = torch.arange(5) + 1
        return torch.ops.txgraph.window_attention(q, q, q, end - 1, end, 2, None, False)  # type: ignore[no-any-return]

    for q in (Q, Q.double()):
        graph = traced(function, q)
        node = find(graph, WINDOW)
        assert keys_seen(graph, node, 5) == 2, "1, 2, 3, 3 and 3 of them"
        attention.choose_attention(graph)
        torch.testing.assert_close(interpret(graph, [q])[0], function(q))
    first = with_mask_of(traced(function, Q))
    torch.testing.assert_close(first, function(Q))


def with_mask_of(graph: Graph) -> torch.Tensor:
    """What torch's kernel gives."""
    node = find(graph, WINDOW)
    node.replace_all_uses_with(with_mask(GraphBuilder(graph, node), node, {}))
    graph.fx.erase_node(node)
    result: torch.Tensor = interpret(graph, [Q])[0]
    return result


def test_windows_that_are_small_are_not_measured(tried: list[str]) -> None:
    q = normal(1, 1, 1024, 8)
    graph = traced(in_windows, q, q, q)
    (said,) = attention.choose_attention(graph).values()
    assert "not measured: torch's computes 341 times as many scores" in said
    assert not tried
    assert graph.count()[f"{WINDOW}_native"] == 1


def test_windows_of_inputs(tried: list[str]) -> None:
    """Nothing is known of how many keys they show: as if all."""

    def function(q: torch.Tensor, end: torch.Tensor) -> torch.Tensor:
        return torch.ops.txgraph.window_attention(q, q, q, end - 3, end, 0, None, False)  # type: ignore[no-any-return]

    graph = traced(function, Q, torch.arange(5))
    assert list(attention.choose_attention(graph)) == ["attention 2x6x5x5x8, 5 keys seen"]
    assert tried


def test_windows_of_sizes_that_vary(tried: list[str]) -> None:
    shapes = ({0: Dim("B", max=9), 2: Dim("S", max=99)},)
    graph = graph_of(lambda q: in_windows(q, q, q), Q, dynamic_shapes=shapes).copy()
    (said,) = attention.choose_attention(graph).values()
    assert "the keys may be more" in said
    assert not tried
    for batch, length in ((3, 2), (2, 40)):
        q = normal(batch, 6, length, 8)
        torch.testing.assert_close(interpret(graph, [q])[0], in_windows(q, q, q))


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
