"""Heads that are computed one by one become one attention, with eager's numbers in every case."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.export import Dim

from tests.helpers import FLOATS, assert_numbers, normal, reasons, rewritten
from tests.small import apply, find, graph_of, module, traced
from txgraph.ir import arguments, interpret, type_of
from txgraph.passes.fuse.merge_attention_heads import MergeAttentionHeads

# What it makes, and when that is legal; at sizes as small as these it often does not pay.
RULE = type("MergeAttentionHeads", (MergeAttentionHeads,), {"gain": lambda *_: None})()
HEADS, SIZE = 3, 4
Q, K, V = normal(2, 5, 12), normal(2, 7, 12), normal(2, 7, 12) + 1
SEEN = torch.arange(35).reshape(5, 7) % 3 != 0
MERGED = {"reshape": 4, "scaled_dot_product_attention": 1, "transpose": 4}

Tensor = torch.Tensor
Cut = Callable[[Tensor], list[Tensor]]
sdpa = F.scaled_dot_product_attention

CUTS: dict[str, Cut] = {
    "chunk": lambda t: list(t.chunk(3, -1)),
    "split": lambda t: list(t.split(4, 2)),
    "split with sizes": lambda t: list(t.split([4, 4, 4], -1)),
    "slices": lambda t: [t[..., i * 4 : (i + 1) * 4] for i in range(3)],
}


def by_head(cut: Cut = CUTS["chunk"], **options: Any) -> Callable[..., Tensor]:
    """Attention in a loop over the heads."""

    def function(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        pieces = zip(cut(q), cut(k), cut(v), strict=True)
        return torch.cat([sdpa(*piece, attn_mask=mask, **options) for piece in pieces], -1)

    return lambda q, k, v: function(q, k, v)


def masked(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    pieces = zip(q.chunk(3, -1), k.chunk(3, -1), v.chunk(3, -1), strict=True)
    return torch.cat([sdpa(*piece, attn_mask=mask) for piece in pieces], -1)


@pytest.mark.parametrize("cut", CUTS)
def test_pieces_of_one_value(cut: str) -> None:
    after = rewritten(RULE, by_head(CUTS[cut]), Q, K, V)
    assert after.count() == MERGED | {"new_zeros": 1}
    attention = find(after, "scaled_dot_product_attention")
    assert str(type_of(attention)) == "f32[2, 3, 5, 4]"
    assert arguments(attention)["scale"] is None
    assert [n.name for n in after.inputs] == ["q", "k", "v"]


def test_a_linear_for_each_head() -> None:
    def function(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
        return torch.cat([sdpa(F.linear(x, w), F.linear(x, -w), F.linear(x, w * 2)) for w in (a, b)], 2)

    after = rewritten(RULE, function, Q, a=normal(4, 12), b=normal(4, 12) * 2)
    assert after.count()["stack"] == 3
    assert after.count()["scaled_dot_product_attention"] == 1


def swapped(t: Tensor) -> list[Tensor]:
    first, second, third = t.chunk(3, -1)
    return [second, first, third]


OTHERS: dict[str, Cut] = {
    "another order": swapped,
    "not all of it": lambda t: list(t.chunk(3, -1))[:2],
    "not from the start": lambda t: list(t.chunk(3, -1))[1:],
    "overlapping": lambda t: [t[..., :4], t[..., 2:6], t[..., 4:8]],
    "with a step": lambda t: [t[..., :8:2], t[..., 4::2]],
    "the same": lambda t: [t, t, t],
    "two values": lambda t: [t.chunk(3, -1)[0], t.sin().chunk(3, -1)[1], t.chunk(3, -1)[2]],
    "along the tokens": lambda t: [t[:, :3, :4], t[:, 1:4, :4], t[:, 2:5, :4]],
}


@pytest.mark.parametrize("cut", OTHERS)
def test_pieces_that_are_stacked(cut: str) -> None:
    after = rewritten(RULE, by_head(OTHERS[cut]), Q, K, V)
    assert after.count()["stack"] == 3
    assert after.count()["scaled_dot_product_attention"] == 1


@pytest.mark.parametrize("scale", [None, 0.3, 2.0])
def test_scales(scale: float | None) -> None:
    after = rewritten(RULE, by_head(scale=scale), Q, K, V)
    assert arguments(find(after, "scaled_dot_product_attention"))["scale"] == scale


@pytest.mark.parametrize("sizes", [(5, 7), (7, 5), (5, 5), (1, 7)], ids=str)
def test_causal(sizes: tuple[int, int]) -> None:
    after = rewritten(
        RULE, by_head(is_causal=True), *(t[:, :s] for t, s in zip((Q, K, V), (sizes[0], *sizes[1:] * 2), strict=True))
    )
    assert arguments(find(after, "scaled_dot_product_attention"))["is_causal"] is False
    assert after.count() == MERGED | {"new_ones": 1, "tril": 1}


MASKS: dict[str, Tensor] = {
    "additive": normal(5, 7),
    "boolean": SEEN,
    "a row of keys": SEEN[:1],
    "for each batch": normal(2, 5, 7),
    "boolean for each batch": torch.stack([SEEN, ~SEEN]),
    "one batch": normal(1, 5, 7),
    "a row without keys": SEEN & (torch.arange(5)[:, None] != 2),
    "minus infinity": torch.zeros(5, 7).masked_fill(~SEEN, float("-inf")),
}


@pytest.mark.parametrize("kind", MASKS)
def test_masks(kind: str) -> None:
    after = rewritten(RULE, masked, Q, K, V, MASKS[kind])
    assert after.count() == MERGED | ({"unsqueeze": 1} if MASKS[kind].ndim == 3 else {})
    constant = rewritten(RULE, masked, Q, K, V, mask=MASKS[kind])
    assert constant.constants.frozen_values() == frozenset()


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_dtypes(dtype: torch.dtype) -> None:
    rewritten(RULE, by_head(), *(t.to(dtype) for t in (Q, K, V)))
    rewritten(RULE, masked, *(t.to(dtype) for t in (Q, K, V, MASKS["additive"])))


SHAPES = [(0, 5, 7), (1, 5, 7), (2, 0, 7), (2, 1, 7), (2, 5, 0), (2, 5, 1), (1, 1, 1)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_sizes_of_zero_and_one(shape: tuple[int, int, int]) -> None:
    batch, queries, keys = shape
    inputs = normal(batch, queries, 12), normal(batch, keys, 12), normal(batch, keys, 12)
    assert rewritten(RULE, by_head(), *inputs).count()["scaled_dot_product_attention"] == 1
    assert rewritten(RULE, by_head(lambda t: list(t.split(1, -1))), *inputs).count()["reshape"] == 4


EDGES = [float("nan"), float("inf"), float("-inf"), 1e30, -0.0]


@pytest.mark.parametrize("value", EDGES)
@pytest.mark.parametrize("at", range(3))
@pytest.mark.parametrize("options", [{}, {"is_causal": True}], ids=str)
def test_edge_values(at: int, value: float, options: dict[str, Any]) -> None:
    inputs = [t.clone() for t in (Q, K[:, :5], V[:, :5])]
    inputs[at][0, 3, 5] = value
    rewritten(RULE, by_head(**options), *inputs)
    rewritten(RULE, masked, *inputs, SEEN[:, :5])
    rewritten(RULE, masked, *inputs, MASKS["additive"][:, :5])


def test_why_there_always_is_a_mask() -> None:
    """The kernel for several heads drops the NaN of a query otherwise."""
    q = Q.clone()
    q[0, 3] = float("nan")
    pieces = [t.reshape(2, -1, 3, 4).transpose(1, 2) for t in (q, K, V)]
    assert by_head()(q, K, V)[0, 3].isnan().all()
    assert not sdpa(*pieces)[0, :, 3].isnan().any()
    assert sdpa(*pieces, attn_mask=torch.zeros(1, 1))[0, :, 3].isnan().all()


@pytest.mark.parametrize("options", [{}, {"is_causal": True}], ids=str)
def test_dynamic_sizes(options: dict[str, Any]) -> None:
    linear = nn.Linear(12, 12)
    model = module(lambda q, k: by_head(**options)(linear(q), k, linear(k)), linear=linear)
    axes = {0: Dim.AUTO, 1: Dim.AUTO}
    after, rewrites = apply(RULE, graph_of(model, Q, K, dynamic_shapes=(axes, axes)))
    assert len(rewrites) == 1
    for b, s, t in ((2, 5, 7), (3, 4, 2), (5, 9, 9)):
        q, k = normal(b, s, 12), normal(b, t, 12)
        torch.testing.assert_close(interpret(after, [q, k])[0], model(q, k))


def test_inputs_of_any_layout() -> None:
    after, _ = apply(RULE, traced(by_head(), Q, K, V))
    strided = [t.transpose(0, 1).contiguous().transpose(0, 1) for t in (Q, K, V)]
    assert not strided[0].is_contiguous()
    assert_numbers(after, by_head(), *strided)


# Near misses.


def why(function: Callable[..., Any], *inputs: Tensor, **constants: Tensor) -> str:
    return reasons(RULE, function, *(inputs or (Q, K, V)), **constants)[0]


def test_a_head_used_elsewhere() -> None:
    def function(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        heads = [sdpa(*piece) for piece in zip(q.chunk(3, -1), k.chunk(3, -1), v.chunk(3, -1), strict=True)]
        return torch.cat(heads, -1), heads[1]

    assert "is used elsewhere, too" in why(function)


def test_a_head_that_occurs_twice() -> None:
    def function(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        head = sdpa(q, k, v)
        return torch.cat([head, head], -1)

    assert "each once" in why(function)


def test_a_single_head() -> None:
    assert "two heads or more" in why(lambda q, k, v: torch.cat([sdpa(q, k, v)], -1))


def test_something_else_beside_the_heads() -> None:
    assert "%q is not an attention" in why(lambda q, k, v: torch.cat([sdpa(q, k, v), q], -1))


def test_another_axis() -> None:
    function = lambda q, k, v: torch.cat([sdpa(q, k, v), sdpa(q * 2, k, v)], 1)  # noqa: E731
    assert "not concatenated along the last axis" in why(function)


def test_heads_of_other_ranks() -> None:
    assert "expected three axes" in why(by_head(), *(t[:, None] for t in (Q, K, V)))
    assert "expected three axes" in why(by_head(), *(t[0] for t in (Q, K, V)))


def test_heads_of_different_types() -> None:
    sizes: Cut = lambda t: list(t.split([4, 8], -1))  # noqa: E731
    assert "the heads have a query f32[2, 5, 4] and f32[2, 5, 8]" in why(by_head(sizes))
    function = lambda q, k, v: torch.cat([sdpa(q, k, v), sdpa(q, k[:, 1:], v[:, 1:])], -1)  # noqa: E731
    assert "the heads have a key f32[2, 7, 12] and f32[2, 6, 12]" in why(function)
    function = lambda q, k, v: torch.cat([sdpa(q, k, v), sdpa(q, k, v[..., :4])], -1)  # noqa: E731
    assert "the heads have a value" in why(function)


def test_heads_with_different_options() -> None:
    def function(first: dict[str, Any], second: dict[str, Any]) -> Callable[..., Tensor]:
        return lambda q, k, v: torch.cat([sdpa(q, k, v, **first), sdpa(-q, k, v, **second)], -1)

    assert "the heads differ in scale" in why(function({"scale": 0.5}, {"scale": 0.25}))
    assert "the heads differ in scale" in why(function({}, {"scale": 0.25}))
    assert "the heads differ in is_causal" in why(function({"is_causal": True}, {}))
    assert "the heads have dropout or groups" in why(function({"enable_gqa": True}, {"enable_gqa": True}))
    assert "the heads differ in enable_gqa" in why(function({}, {"enable_gqa": True}))
    assert apply(RULE, traced(function({"dropout_p": 0.5}, {"dropout_p": 0.5}), Q, K, V))[1] == []


def test_heads_with_masks_of_their_own() -> None:
    def function(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        return torch.cat([sdpa(q, k, v, mask), sdpa(-q, k, v, mask * 2)], -1)

    assert "the heads differ in attn_mask" in why(function, Q, K, V, normal(5, 7))
    function = lambda q, k, v, mask: torch.cat([sdpa(q, k, v, mask), sdpa(-q, k, v)], -1)  # noqa: E731
    assert "the heads differ in attn_mask" in why(function, Q, K, V, normal(5, 7))
