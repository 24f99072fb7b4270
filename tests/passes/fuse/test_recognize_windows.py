"""Masks by which each query sees keys side by side become windows, however they are made; what looks like it stays."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch.export import Dim

from tests.helpers import assert_numbers, normal, rewritten
from tests.small import apply, find, graph_of, module, traced
from txgraph.ir import Graph, arguments
from txgraph.options import Target
from txgraph.passes.fuse.recognize_windows import RecognizeWindows
from txgraph.rewrite import PassContext, explain_pass

RULE = RecognizeWindows()
WINDOW, SDPA = "txgraph::window_attention", "scaled_dot_product_attention"
Q, K, V = normal(2, 4, 12, 8), normal(2, 4, 12, 8), normal(2, 4, 12, 8)
LOWEST = torch.finfo(torch.float32).min
INF = float("inf")

Tensor = torch.Tensor
Mask = Callable[[int, int], Tensor]


def keys(count: int) -> Tensor:
    return torch.arange(count)[None, :]


def queries(count: int) -> Tensor:
    return torch.arange(count)[:, None]


def sliding(s: int, t: int) -> Tensor:
    return (keys(t) <= queries(s)) & (keys(t) > queries(s) - 4)


def attend(mask: Mask) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    return lambda q, k, v: F.scaled_dot_product_attention(q, k, v, mask(q.shape[-2], k.shape[-2]))


def reason(graph: Graph, context: PassContext | None = None) -> str:
    """Why the only attention stays what it is."""
    assert not apply(RULE, graph, context)[1]
    rewrites, misses = explain_pass(RULE, graph, context or PassContext())
    assert not rewrites
    return misses[0].reason


def stays(mask: Mask, q: Tensor = Q, k: Tensor = K, v: Tensor = V) -> str:
    return reason(traced(attend(mask), q, k, v))


WINDOWS: dict[str, Mask] = {
    "sliding": sliding,
    "sliding, with axes of batch and heads": lambda s, t: sliding(s, t)[None, None].expand(2, 1, s, t),
    "tril and triu": lambda s, t: torch.ones(s, t, dtype=torch.bool).tril().triu(-3),
    "tril above": lambda s, t: torch.ones(s, t, dtype=torch.bool).tril(2),
    "triu": lambda s, t: torch.ones(s, t, dtype=torch.bool).triu(),
    "strictly earlier": lambda s, t: keys(t) < queries(s),
    "band": lambda s, t: (keys(t) - queries(s)).abs() <= 3,
    "chunks": lambda s, t: keys(t) // 5 == queries(s) // 5,
    "chunks, causal": lambda s, t: (keys(t) // 5 == queries(s) // 5) & (keys(t) <= queries(s)),
    "chunks by div": lambda s, t: torch.div(keys(t), 5, rounding_mode="floor") == queries(s) // 5,
    "blocks": lambda s, t: keys(t) // 5 <= queries(s) // 5,
    "half": lambda s, t: keys(t) * 2 <= queries(s),
    "aligned to the end": lambda s, t: keys(t) <= queries(s) + 3,
    "the same for all queries": lambda s, t: (keys(t) >= 2) & (keys(t) < 7),
    "one row for all queries": lambda s, t: ((keys(t) >= 2) & (keys(t) < 7)).expand(s, t),
    "itself": lambda s, t: keys(t) == queries(s),
    "additive": lambda s, t: torch.zeros(s, t).masked_fill(~sliding(s, t), -INF),
    "additive, lowest": lambda s, t: torch.where(sliding(s, t), 0.0, LOWEST),
}


@pytest.mark.parametrize("mask", WINDOWS.values(), ids=list(WINDOWS))
def test_windows(mask: Mask) -> None:
    assert rewritten(RULE, attend(mask), Q, K, V).count()[WINDOW] == 1


@pytest.mark.parametrize("name", ["sliding", "triu", "strictly earlier", "chunks", "half", "the same for all queries"])
@pytest.mark.parametrize(("s", "t"), [(12, 30), (30, 12), (1, 12), (12, 1), (0, 12)], ids=str)
def test_other_sizes(name: str, s: int, t: int) -> None:
    """Queries that see no key give 0, and windows may reach beyond the keys."""
    k = normal(2, 4, t, 8)
    after, _ = apply(RULE, traced(attend(WINDOWS[name]), normal(2, 4, s, 8), k, k))
    assert_numbers(after, attend(WINDOWS[name]), normal(2, 4, s, 8), k, k)


def test_what_the_operator_gets() -> None:
    def function(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, sliding(12, 12), scale=-0.3, enable_gqa=True)

    after = rewritten(RULE, function, Q, K[:, :2], V[:, :2])
    named = arguments(find(after, WINDOW))
    assert (named["scale"], named["enable_gqa"]) == (-0.3, True)
    assert SDPA not in after.count()
    assert "le" not in after.count(), "the mask is not made any more"


def test_one_window_for_several_layers() -> None:
    def function(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attend(sliding)(attend(sliding)(q, k, v), k, v)

    assert rewritten(RULE, function, Q, K, V).count()[WINDOW] == 2


STAY: dict[str, tuple[Mask, str]] = {
    "sinks": (lambda s, t: sliding(s, t) | ((keys(t) < 2) & (keys(t) <= queries(s))), "side by side"),
    "dilated": (lambda s, t: (keys(t) % 2) == (queries(s) % 2), "not a function of its indices"),
    "by batch": (lambda s, t: keys(t) <= queries(s) + torch.arange(2).view(2, 1, 1, 1), "side by side"),
    "all but itself": (lambda s, t: keys(t) != queries(s), "side by side"),
    "hides nothing": (lambda s, t: torch.ones(s, t, dtype=torch.bool), "hides nothing"),
    "wider than the sequence": (lambda s, t: (keys(t) - queries(s)).abs() <= 20, "hides nothing"),
    "a bias": (lambda s, t: torch.where(sliding(s, t), 0.5, -INF), "side by side"),
    "barely above the lowest": (lambda s, t: torch.where(sliding(s, t), 0.0, LOWEST * 0.99), "side by side"),
    "additive, of the earlier": (lambda s, t: torch.where(keys(t) < queries(s), 0.0, LOWEST), "may see no key"),
}


@pytest.mark.parametrize(("mask", "why"), STAY.values(), ids=list(STAY))
def test_stays(mask: Mask, why: str) -> None:
    assert why in stays(mask)


def test_padding_and_a_window() -> None:
    """A mask of data and formula stays, and says so."""

    def function(q: Tensor, k: Tensor, v: Tensor, valid: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, sliding(12, 12) & valid[:, None, None, :])

    graph = traced(function, Q, K, V, torch.ones(2, 12, dtype=torch.bool))
    assert reason(graph) == "the mask is not a function of its indices alone"


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_dtypes_without_a_kernel(dtype: torch.dtype) -> None:
    assert "no kernel" in stays(sliding, *(x.to(dtype) for x in (Q, K, V)))


def test_gpus() -> None:
    graph = traced(attend(sliding), Q, K, V)
    assert "no kernel" in reason(graph, PassContext(target=Target("cuda", "sm_90")))


def test_three_axes() -> None:
    assert "[B, H, S, D]" in stays(sliding, Q[0], K[0], V[0])


def test_dropout() -> None:
    function = lambda q, k, v: F.scaled_dot_product_attention(q, k, v, sliding(12, 12), 0.5)  # noqa: E731
    assert "by a mask alone" in reason(traced(function, Q, K, V))


def test_constant_masks() -> None:
    """Read by value they are triangles, or nothing."""
    function = lambda q, k, v, mask: F.scaled_dot_product_attention(q, k, v, mask)  # noqa: E731
    after = rewritten(RULE, function, Q, K, V, mask=torch.ones(12, 12, dtype=torch.bool).tril())
    assert after.constants.frozen_values() == {"mask"}
    kept = traced(function, Q, K, V, mask=torch.ones(12, 12, dtype=torch.bool).tril(-1))
    assert "not a function" in reason(kept)
    assert kept.constants.frozen_values() == frozenset()


@pytest.mark.parametrize("name", ["sliding", "chunks, causal", "band", "additive, lowest", "the same for all queries"])
def test_dynamic_sizes(name: str) -> None:
    function = attend(WINDOWS[name])
    axes = {0: Dim("B"), 2: Dim("S", max=4096)}
    after, rewrites = apply(RULE, graph_of(function, Q, K, V, dynamic_shapes=(axes, axes, axes)))
    assert len(rewrites) == 1
    for size in (2, 3, 37):
        assert_numbers(after, module(function).forward, *[normal(3, 4, size, 8)] * 3)


def test_dynamic_queries_at_the_end_of_the_keys() -> None:
    """As in decoding with a cache: sizes are part of the bounds."""

    def mask(s: int, t: int) -> Tensor:
        place = queries(s) + (t - s)
        return (keys(t) <= place) & (keys(t) > place - 4)

    shapes = ({2: Dim("S", min=2, max=16)}, {2: Dim("T", min=17)}, {2: Dim("T", min=17)})
    longer = normal(2, 4, 30, 8)
    after, rewrites = apply(RULE, graph_of(attend(mask), Q, longer, longer, dynamic_shapes=shapes))
    assert len(rewrites) == 1
    for s, t in ((2, 17), (16, 90)):
        assert_numbers(after, attend(mask), normal(2, 4, s, 8), normal(2, 4, t, 8), normal(2, 4, t, 8))


def test_a_bound_that_is_no_sum() -> None:
    def mask(s: int, t: int) -> Tensor:
        return keys(t) * 2 <= queries(s) + s * t

    shapes = ({2: Dim("S", min=2, max=99)}, {2: Dim("T", min=2, max=99)}, {2: Dim("T", min=2, max=99)})
    longer = normal(2, 4, 30, 8)
    assert "no sum of indices" in reason(graph_of(attend(mask), Q, longer, longer, dynamic_shapes=shapes))


@pytest.mark.parametrize("value", [0.0, -0.0, 1e-40, 1e30, float("nan"), INF])
def test_edge_values(value: float) -> None:
    for which in range(3):
        inputs = [Q.clone(), K.clone(), V.clone()]
        inputs[which][:, :, 2] = value
        assert rewritten(RULE, attend(sliding), *inputs).count()[WINDOW] == 1
