"""Attention of three axes gets a fourth, and its numbers stay, NaN among them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.export import Dim

from tests.helpers import FLOATS, assert_numbers, normal, reasons, rewritten
from tests.small import apply, find, graph_of, module, traced
from txgraph.ir import arguments, type_of
from txgraph.passes.layout.add_head_axis import AddHeadAxis

RULE = AddHeadAxis()
Q, K, V = normal(3, 4, 8), normal(3, 40, 8), normal(3, 40, 8)
SEEN = torch.arange(160).reshape(1, 4, 40) % 3 != 0

Tensor = torch.Tensor
sdpa = F.scaled_dot_product_attention


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("options", [{}, {"scale": 0.5}, {"is_causal": True}])
def test_without_a_mask(dtype: torch.dtype, options: dict[str, Any]) -> None:
    after = rewritten(RULE, lambda q, k, v: sdpa(q, k, v, **options), *(t.to(dtype) for t in (Q, K, V)))
    assert after.count() == {"scaled_dot_product_attention": 1, "squeeze": 1, "unsqueeze": 3}
    named = arguments(find(after, "scaled_dot_product_attention"))
    assert (named["scale"], named["is_causal"]) == (options.get("scale"), options.get("is_causal", False))
    assert str(type_of(named["query"])).endswith("[3, 1, 4, 8]")


@pytest.mark.parametrize("shape", [(3, 4, 40), (3, 1, 40), (1, 4, 40), (4, 40), (1, 40)], ids=str)
def test_masks(shape: tuple[int, ...]) -> None:
    function = lambda q, k, v, mask: sdpa(q, k, v, mask)  # noqa: E731
    after = rewritten(RULE, function, Q, K, V, normal(*shape))
    assert after.count()["unsqueeze"] == 3 + (len(shape) == 3)
    hidden = SEEN.expand(3, 4, 40)[tuple(slice(0, size) for size in (*(3,) * (3 - len(shape)), *shape))]
    rewritten(RULE, function, Q, K, V, hidden.reshape(shape) if len(shape) == 3 else SEEN[0, : shape[0]])


@pytest.mark.parametrize("keys", [1, 5, 31, 32])
def test_nan_of_a_query(keys: int) -> None:
    q = Q.clone()
    q[0, 0] = float("nan")
    after = rewritten(RULE, lambda q, k, v: sdpa(q, k, v), q, K[:, :keys], V[:, :keys])
    assert after.count().get("new_zeros", 0) == (keys < 32)


def test_dynamic_sizes() -> None:
    n, s, t = Dim("N"), Dim("S"), Dim("T")
    model = module(lambda q, k, v: sdpa(q, k, v))
    graph = graph_of(model, Q, K, V, dynamic_shapes=({0: n, 1: s}, {0: n, 1: t}, {0: n, 1: t}))
    after, (rewrite,) = apply(RULE, graph)
    assert rewrite.rule == "add-head-axis"
    assert_numbers(after, model.forward, normal(2, 5, 8), normal(2, 3, 8), normal(2, 3, 8))


def test_other_ranks() -> None:
    found = reasons(RULE, lambda q, k, v: sdpa(q, k, v), *(t[None] for t in (Q, K, V)))
    assert found == ["query, key and value have [4, 4, 4] axes, expected three each"]
    assert reasons(RULE, lambda q, k, v: sdpa(q, k, v), *(t[0] for t in (Q, K, V)))[0].endswith("expected three each")


def test_dropout_and_groups() -> None:
    dropped = traced(lambda q, k, v: sdpa(q, k, v, dropout_p=0.5), Q, K, V)
    assert apply(RULE, dropped)[1] == []


@pytest.mark.parametrize("keys", [1, 5, 40])
def test_nan_of_a_query_under_a_causal_mask(keys: int) -> None:
    q = Q.clone()
    q[0, 0] = float("nan")
    after = rewritten(RULE, lambda q, k, v: sdpa(q, k, v, is_causal=True), q, K[:, :keys], V[:, :keys])
    assert ("tril" in after.count()) == (keys < 32)
