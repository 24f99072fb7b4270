"""Attention in C++: as near to float64 as torch's own, for every width of vectors that the source knows."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from tests.backends.kernels.errors import as_near
from tests.helpers import normal
from txgraph.backends.kernels.attention import attention_native, ragged_attention_native, window_attention_native
from txgraph.ir.ops import window_attention
from txgraph.ir.packed import ragged_attention, token_index

Tensor = torch.Tensor
pytestmark = pytest.mark.usefixtures("every_processor")


def heads(batch: int, length: int, count: int, depth: int) -> Tensor:
    """``[B, H, S, D]`` as a projection gives it."""
    return normal(batch, length, count, depth).transpose(1, 2)


SIZES = {  # batch, queries, keys, heads, key heads, depth, width
    "one query": (2, 1, 300, 4, 2, 64, 64),
    "two queries": (2, 2, 300, 4, 2, 64, 64),
    "four queries, odd": (1, 4, 23, 2, 1, 33, 20),
    "one key": (2, 5, 1, 4, 4, 8, 8),
    "few": (4, 6, 6, 6, 2, 8, 5),
    "a block": (1, 128, 128, 2, 2, 64, 64),
    "more than a block": (1, 129, 129, 2, 1, 64, 64),
    "odd": (3, 17, 23, 2, 1, 33, 20),
    "more keys": (2, 5, 300, 4, 2, 64, 64),
    "more queries": (2, 300, 5, 4, 2, 16, 16),
    "no query": (2, 0, 3, 4, 4, 8, 8),
    "no batch": (0, 3, 3, 4, 4, 8, 8),
}
MASKS: dict[str, tuple[Callable[..., Tensor | None], bool]] = {
    "none": (lambda *_: None, False),
    "causal": (lambda *_: None, True),
    "a bias": (normal, False),
    "a bias of heads": (lambda b, h, s, t: normal(1, h, s, t), False),
    "a bias of keys": (lambda b, h, s, t: normal(b, 1, 1, t), False),
    "two axes": (lambda b, h, s, t: normal(s, t), False),
    "boolean": (lambda b, h, s, t: (normal(1, 1, s, t) > 0) | (torch.arange(t) == 0), False),
    "a view": (lambda b, h, s, t: normal(b, h, t, s).transpose(2, 3), False),
}


@pytest.mark.parametrize(("mask", "causal"), MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("scale", [None, -0.3])
def test_dense(sizes: tuple[int, ...], mask: Callable[..., Tensor | None], causal: bool, scale: float | None) -> None:
    b, s, t, h, g, d, width = sizes
    q, k, v, hidden = heads(b, s, h, d), heads(b, t, g, d), heads(b, t, g, width), mask(b, h, s, t)
    result = attention_native(q, k, v, hidden, causal, scale)
    assert result.transpose(1, 2).is_contiguous()
    if causal and scale is not None:  # torch's own kernel hides a key by a bias that it scales
        hidden, causal = torch.ones(s, t, dtype=torch.bool).tril(), False
    as_near(
        result,
        lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, m, 0.0, causal, scale=scale, enable_gqa=g != h),
        *(q, k, v, hidden),
    )


@pytest.mark.parametrize(("mask", "causal"), MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("lengths", [(5, 3, 0, 40, 17), (130, 1), (0, 0), ()], ids=str)
def test_ragged(lengths: tuple[int, ...], mask: Callable[..., Tensor | None], causal: bool) -> None:
    longest = max(lengths, default=0)
    valid = (torch.arange(longest) < torch.tensor(lengths, dtype=torch.int64)[:, None]).flip(1)
    row, position, packed, *_ = token_index(valid)
    joint = normal(len(row), (6 + 2 + 2) * 24)
    q, k, v = (t.unflatten(1, (-1, 24)) for t in joint.split((6 * 24, 2 * 24, 2 * 24), 1))
    hidden = mask(len(lengths), 6, longest, longest)
    if hidden is not None and hidden.dtype is torch.bool:
        hidden = hidden | torch.eye(longest, dtype=torch.bool)  # each query sees itself
    result = ragged_attention_native(q, k, v, row, position, packed, hidden, causal, None)
    assert result.is_contiguous()
    places = (row, position, packed)
    as_near(result, lambda q, k, v, m: ragged_attention(q, k, v, *places, m, causal, None, True), q, k, v, hidden)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e30, 1e-40, -0.0])
@pytest.mark.parametrize("where", range(3), ids=["query", "key", "value"])
def test_unusual_numbers(value: float, where: int) -> None:
    """They reach the outputs that they reach in eager, and no others."""
    operands = [normal(1, 2, 20, 8) for _ in range(3)]
    operands[where] = operands[where].clone()
    operands[where][0, 1, 3, 2] = value
    torch.testing.assert_close(
        attention_native(*operands, None, True, None),
        F.scaled_dot_product_attention(*operands, is_causal=True),
        equal_nan=True,
    )


@pytest.mark.parametrize("mask", [torch.zeros(5, 7, dtype=torch.bool), torch.full((5, 7), -float("inf"))])
def test_a_query_without_keys_gives_zeros(mask: Tensor) -> None:
    q, k, v = heads(1, 5, 2, 8), heads(1, 7, 2, 8), heads(1, 7, 2, 8)
    assert not attention_native(q, k, v, mask, False, None).any()
    assert not attention_native(q, k[:, :, :0], v[:, :, :0], None, False, None).any()


def test_scores_far_apart() -> None:
    """Weights below the smallest normal number are zeros; equal scores share."""
    scores = torch.tensor([0.0, -50.0, -86.0, -88.0, -1e4, -1e30, 0.0])
    weights = attention_native(
        torch.ones(1, 1, 1, 1), scores.reshape(1, 1, 7, 1), torch.eye(7).reshape(1, 1, 7, 7), None, False, 1.0
    )
    expected = scores.double().softmax(0)
    torch.testing.assert_close(weights[0, 0, 0].double(), expected, rtol=1e-6, atol=2e-38)


def test_any_strides() -> None:
    q, k, v = (normal(8, 2, 9, 3).permute(3, 1, 2, 0) for _ in range(3))
    expanded = normal(1, 1, 9, 8).expand(3, 2, 9, 8)
    for operands in ((q, k, v), (expanded, k, v), (q, expanded, expanded)):
        torch.testing.assert_close(
            attention_native(*operands, None, False, None), F.scaled_dot_product_attention(*operands)
        )


def test_what_torch_expects_of_an_operator() -> None:
    row, position, lengths, *_ = token_index(torch.ones(2, 3, dtype=torch.bool))
    q = normal(6, 4, 8)
    for mask in (None, normal(1, 4, 3, 3)):
        checks = {"test_utils": ("test_schema", "test_faketensor")}
        ragged = (q, q, q, row, position, lengths, mask, False, None)
        torch.library.opcheck(torch.ops.txgraph.ragged_attention_native.default, ragged, **checks)
        dense = (*(t.unflatten(0, (2, 3)).transpose(1, 2) for t in (q, q, q)), mask, False, None)
        torch.library.opcheck(torch.ops.txgraph.attention_native.default, dense, **checks)
    place = torch.arange(3)
    windows = (*dense[:3], place - 1, place + 1, 1, 0.3)
    torch.library.opcheck(torch.ops.txgraph.window_attention_native.default, windows, **checks)
    torch.library.opcheck(torch.ops.txgraph.window_attention.default, (*windows, False), **checks)


def window(length: int) -> Tensor:
    """Each query sees itself and some keys before it."""
    distance = torch.arange(length)[:, None] - torch.arange(length)
    return (distance >= 0) & (distance < 40)


def blocks(length: int) -> Tensor:
    """Blocks of keys here and there, and the first ones for all; one block of queries sees none."""
    places = torch.arange(length) // 50
    seen = (places[:, None] * 3 + places) % 4 == 0
    seen[:, :5] = True
    seen[128:256] = False
    return seen


@pytest.mark.parametrize("form", [window, blocks], ids=lambda form: form.__name__)
@pytest.mark.parametrize("additive", [False, True], ids=["boolean", "additive"])
@pytest.mark.parametrize("depth", [16, 20], ids=str)
def test_masks_that_hide_many_keys(form: Callable[[int], Tensor], additive: bool, depth: int) -> None:
    q, k, v = (heads(2, 300, count, depth) for count in (4, 2, 2))
    seen = torch.stack([form(300), form(300).flip(0), form(300), form(300).flip(1)])
    for mask in (seen[:1], seen):
        given = torch.zeros(mask.shape).masked_fill(~mask, -math.inf) if additive else mask
        as_near(
            attention_native(q, k, v, given, False, None),
            lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, m, enable_gqa=True),
            *(q, k, v, given),
        )


@pytest.mark.parametrize("additive", [False, True], ids=["boolean", "additive"])
@pytest.mark.parametrize("length", [25, 300], ids=str)
def test_padding_that_all_queries_hide(length: int, additive: bool) -> None:
    """At the end, at the start, on both sides, nothing, and all but one."""
    q, k, v = (heads(5, length, count, 16) for count in (4, 2, 2))
    at, third = torch.arange(length), length // 3
    seen = torch.stack([at < third, at >= third, (at >= third) & (at < 2 * third), at >= 0, at == length - 1])
    mask = seen[:, None, None]
    given = torch.zeros(mask.shape).masked_fill(~mask, -math.inf) if additive else mask
    for each in (given, given.expand(-1, -1, length, -1)):
        as_near(
            attention_native(q, k, v, each, False, None),
            lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, m, enable_gqa=True),
            *(q, k, v, each),
        )


@pytest.mark.parametrize("causal", [False, True], ids=["", "causal"])
def test_packed_masks_that_hide_many_keys(causal: bool) -> None:
    lengths = torch.tensor([3, 130, 290])
    places = token_index(torch.arange(290) < lengths[:, None])[:3]
    q, k, v = (normal(423, count, 16) for count in (4, 2, 2))
    mask = window(290)
    result = ragged_attention_native(q, k, v, *places, mask, causal, None)
    as_near(result, lambda q, k, v: ragged_attention(q, k, v, *places, mask, causal, None, True), q, k, v)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("which", [1, 2], ids=["key", "value"])
def test_what_is_not_finite_is_not_left_out(value: float, which: int) -> None:
    """Hidden, it makes NaN, as in torch's kernel."""
    q, k, v = tensors = [heads(1, 300, 2, 16) for _ in range(3)]
    tensors[which][0, 0, 299, 3] = value
    ours = attention_native(q, k, v, window(300), False, None)
    theirs = F.scaled_dot_product_attention(q, k, v, window(300))
    assert ours.isnan().equal(theirs.isnan())
    assert bool(ours[0, 0, 0].isnan().any())
    assert bool(ours[0, 1].isfinite().all())


def test_hidden_keys_are_left_out() -> None:
    """Seen by a score that would overflow."""
    q, k, v = heads(1, 300, 2, 16), heads(1, 300, 2, 16), heads(1, 300, 2, 16)
    k[:, :, 250:] = 3e38
    result = attention_native(q, k, v, window(300), False, None)
    assert bool(result[:, :, :128].isfinite().all())
    padding = torch.arange(300) < 192
    assert bool(attention_native(q, k, v, padding, False, None).isfinite().all())


EDGES: dict[str, Callable[[Tensor, int], tuple[Tensor, Tensor]]] = {  # of query indices, and the number of keys
    "sliding": lambda i, t: (i - 40, i + 1),
    "band": lambda i, t: (i - 7, i + 8),
    "chunks": lambda i, t: (i // 50 * 50, i // 50 * 50 + 50),
    "causal": lambda i, t: (torch.zeros_like(i), i + 1),
    "everything": lambda i, t: (torch.full_like(i, -(2**60)), torch.full_like(i, 2**60)),
    "nothing": lambda i, t: (i + 1, i),
    "beyond the keys": lambda i, t: (i + t - 20, i + t),
    "here and there": lambda i, t: ((i * 37) % (t + 9) - 4, (i * 37) % (t + 9) + i % 5 - 5),
    "backwards": lambda i, t: (t - i - 9, t - i),
}


@pytest.mark.parametrize(
    "sizes", [*SIZES.values(), (16, 1, 300, 4, 2, 64, 64)][1:], ids=[*SIZES, "one query of many"][1:]
)
@pytest.mark.parametrize("sinks", [0, 1, 20], ids=str)
def test_windows(sizes: tuple[int, ...], sinks: int) -> None:
    b, s, t, h, g, d, width = sizes
    q, k, v = heads(b, s, h, d), heads(b, t, g, d), heads(b, t, g, width)
    for edges in EDGES.values():
        first, end = edges(torch.arange(s), t)
        result = window_attention_native(q, k, v, first, end, sinks, None)
        assert result.transpose(1, 2).is_contiguous()
        as_near(result, partial(window_attention_of, first, end, sinks), q, k, v)


def window_attention_of(first: Tensor, end: Tensor, sinks: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The definition, with the operands last."""
    return window_attention(q, k, v, first, end, sinks, None, q.shape[1] != k.shape[1])


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("which", [1, 2], ids=["key", "value"])
def test_what_is_not_finite_is_not_left_out_of_windows(value: float, which: int) -> None:
    q, k, v = tensors = [heads(1, 300, 2, 16) for _ in range(3)]
    tensors[which][0, 0, 299, 3] = value
    first, end = torch.arange(300) - 40, torch.arange(300) + 1
    ours = window_attention_native(q, k, v, first, end, 3, None)
    assert ours.isnan().equal(window_attention(q, k, v, first, end, 3, None, False).isnan())
    assert bool(ours[0, 0, 0].isnan().any())
    assert bool(ours[0, 1].isfinite().all())


def test_hidden_keys_of_windows_are_left_out() -> None:
    q, k, v = heads(1, 300, 2, 16), heads(1, 300, 2, 16), heads(1, 300, 2, 16)
    k[:, :, 250:] = 3e38
    result = window_attention_native(q, k, v, torch.arange(300) - 40, torch.arange(300) + 1, 3, None)
    assert bool(result[:, :, :250].isfinite().all())


def test_edges_that_are_views() -> None:
    q, k, v = heads(2, 20, 4, 8), heads(2, 20, 4, 8), heads(2, 20, 4, 8)
    edges = torch.stack([torch.arange(20) - 3, torch.arange(20) + 1], 1)
    first, end = edges.unbind(1)
    apart = window_attention_native(q, k, v, first.contiguous(), end.contiguous(), 0, None)
    assert window_attention_native(q, k, v, first, end, 0, None).equal(apart)
