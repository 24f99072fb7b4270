"""Query heads share keys and values: the numbers stay those of repeated heads, and nothing else is taken for them."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch.export import Dim
from transformers.models.llama.modeling_llama import repeat_kv

from tests.helpers import EDGES, FLOATS, assert_numbers, normal, reasons, rewritten
from tests.small import apply, find, graph_of, module
from txgraph import PassContext, Target
from txgraph.ir import arguments, type_of
from txgraph.passes.canonicalize.normalize_views import NormalizeViews
from txgraph.passes.canonicalize.remove_pointless_views import RemovePointlessViews
from txgraph.passes.fuse.group_query_heads import GroupQueryHeads

RULE = GroupQueryHeads()
Q, K, V = normal(2, 6, 3, 8), normal(2, 2, 40, 8), normal(2, 2, 40, 5)
ONE_K, ONE_V = K[:, :1].contiguous(), V[:, :1].contiguous()

Tensor = torch.Tensor
sdpa = F.scaled_dot_product_attention


def attention(repeat: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    return lambda q, k, v: sdpa(q, repeat(k), repeat(v))


# Each repeats two heads three times.
REPEATS: dict[str, Callable[[Tensor], Tensor]] = {
    "transformers": lambda x: repeat_kv(x, 3),
    "expand": lambda x: x.unsqueeze(-3).expand(-1, -1, 3, -1, -1).reshape(2, 6, 40, x.shape[-1]),
    "copy": lambda x: (
        x[:, :, None].expand(-1, -1, 3, -1, -1).clone(memory_format=torch.contiguous_format).reshape(2, 6, 40, -1)
    ),
    "repeat_interleave": lambda x: x.repeat_interleave(3, 1),
    "repeat_interleave, negative": lambda x: x.repeat_interleave(3, -3),
}
# Each repeats one head six times.
MULTI_QUERY: dict[str, Callable[[Tensor], Tensor]] = {
    "expand": lambda x: x.expand(-1, 6, -1, -1),
    "repeat": lambda x: x.repeat(1, 6, 1, 1),
    "repeat_interleave": lambda x: x.repeat_interleave(6, 1),
    "transformers": lambda x: repeat_kv(x, 6),
    "not at all": lambda x: x,
}


@pytest.mark.parametrize("repeat", REPEATS.values(), ids=REPEATS)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_heads_in_groups(repeat: Callable[[Tensor], Tensor], dtype: torch.dtype) -> None:
    after = rewritten(RULE, attention(repeat), *(t.to(dtype) for t in (Q, K, V)))
    assert after.count() == {"reshape": 2, "scaled_dot_product_attention": 1}
    named = arguments(find(after, "scaled_dot_product_attention"))
    assert str(type_of(named["query"])).endswith("[2, 2, 9, 8]")
    assert (named["key"].name, named["value"].name) == ("k", "v")


@pytest.mark.parametrize("repeat", MULTI_QUERY.values(), ids=MULTI_QUERY)
def test_one_head_of_keys(repeat: Callable[[Tensor], Tensor]) -> None:
    after = rewritten(RULE, attention(repeat), Q, ONE_K, ONE_V)
    assert after.count() == {"reshape": 2, "scaled_dot_product_attention": 1}


@pytest.mark.parametrize("keys", [1, 5, 31, 32, 40])
@pytest.mark.parametrize("edge", EDGES)
def test_edge_values(edge: Callable[[Tensor], Tensor], keys: int) -> None:
    function = attention(REPEATS["repeat_interleave"])
    rewritten(RULE, function, edge(Q), K[:, :, :keys], V[:, :, :keys])
    if keys > 1:
        rewritten(RULE, function, Q, edge(K[:, :, :keys]), edge(V[:, :, :keys]))


def test_shared_keys_become_rows() -> None:
    after = rewritten(RULE, lambda q, k, v: sdpa(q, k, v, scale=0.5, enable_gqa=True), Q, K, V)
    assert after.count() == {"reshape": 2, "scaled_dot_product_attention": 1}
    named = arguments(find(after, "scaled_dot_product_attention"))
    assert (named["scale"], named["enable_gqa"]) == (0.5, False)


def with_mask(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    return sdpa(q, k.repeat_interleave(3, 1), v.repeat_interleave(3, 1), mask)


SHARED = [(2, 1, 1, 40), (1, 1, 1, 40), (1, 1, 40), (1, 40), (1, 1)]
OWN = [(2, 1, 3, 40), (2, 6, 1, 40), (1, 6, 3, 40), (6, 1, 40), (3, 40), (3, 1)]


@pytest.mark.parametrize("shape", SHARED, ids=str)
@pytest.mark.parametrize("boolean", [True, False])
def test_masks_that_queries_share(shape: tuple[int, ...], boolean: bool) -> None:
    mask = normal(*shape) > -0.5 if boolean else normal(*shape).masked_fill(normal(*shape) > 1, -math.inf)
    after = rewritten(RULE, with_mask, Q, K, V, mask)
    assert after.count() == {"reshape": 2, "scaled_dot_product_attention": 1}


@pytest.mark.parametrize("shape", OWN, ids=str)
@pytest.mark.parametrize("boolean", [True, False])
def test_masks_of_each_query(shape: tuple[int, ...], boolean: bool) -> None:
    mask = normal(*shape) > -0.5 if boolean else normal(*shape)
    after = rewritten(RULE, with_mask, Q, K, V, mask)
    assert after.count() == {"scaled_dot_product_attention": 1}
    assert arguments(find(after, "scaled_dot_product_attention"))["enable_gqa"] is True
    shared = reasons(RULE, lambda q, k, v, mask: sdpa(q, k, v, mask, enable_gqa=True), Q, K, V, mask)
    assert shared == ["the keys are shared already, and each query has a mask of its own"]


@pytest.mark.parametrize("shape", [(2, 1, 1, 40), (1, 40)], ids=str)
def test_one_query_has_one_mask(shape: tuple[int, ...]) -> None:
    after = rewritten(RULE, with_mask, Q[:, :, :1], K, V, normal(*shape))
    assert after.count() == {"reshape": 2, "scaled_dot_product_attention": 1}
    of_heads = rewritten(RULE, with_mask, Q[:, :, :1], K, V, normal(1, 6, 1, 40))
    assert of_heads.count() == {"scaled_dot_product_attention": 1}


@pytest.mark.parametrize("queries", [1, 3, 40])
@pytest.mark.parametrize("scale", [None, 0.25])
def test_causal(queries: int, scale: float | None) -> None:
    def function(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return sdpa(q, repeat_kv(k, 3), repeat_kv(v, 3), is_causal=True, scale=scale)

    after = rewritten(RULE, function, normal(2, 6, queries, 8), K, V)
    named = arguments(find(after, "scaled_dot_product_attention"))
    assert (named["is_causal"], named["enable_gqa"], named["scale"]) == (True, True, scale)


def test_dynamic_sizes() -> None:
    b, s, t = Dim("B"), Dim("S"), Dim("T")
    model = module(attention(REPEATS["transformers"]))
    graph = graph_of(model, Q, K, V, dynamic_shapes=({0: b, 2: s}, {0: b, 2: t}, {0: b, 2: t}))
    for normal_form in (NormalizeViews(), RemovePointlessViews()):
        graph, _ = apply(normal_form, graph)
    after, (rewrite,) = apply(RULE, graph)
    assert rewrite.rule == "group-query-heads"
    assert "enable_gqa" not in str(after)
    for sizes in ((2, 3, 40), (3, 7, 4)):
        batch, queries, keys = sizes
        inputs = normal(batch, 6, queries, 8), normal(batch, 2, keys, 8), normal(batch, 2, keys, 5)
        assert_numbers(after, model.forward, *inputs)


NOT_REPEATED = {
    "in another order": lambda x: x.repeat(1, 3, 1, 1),
    "in another order, expanded": lambda x: x[:, None].expand(-1, 3, -1, -1, -1).reshape(2, 6, 40, -1),
    "joined": lambda x: torch.cat([x, x, x], 1),
}


@pytest.mark.parametrize("repeat", NOT_REPEATED.values(), ids=NOT_REPEATED)
def test_other_orders_of_heads(repeat: Callable[[Tensor], Tensor]) -> None:
    (reason,) = reasons(RULE, attention(repeat), Q, K, V)
    assert "does not repeat each head" in reason or reason == "6 heads of queries, 6 of keys, 6 of values"


def test_keys_repeated_as_often_as_there_are_keys() -> None:
    """The expanded axis has the size of another: only its place tells them apart."""
    q, k, v = normal(2, 4, 2, 8), normal(2, 2, 2, 8), normal(2, 2, 2, 8)
    function = attention(lambda x: x[:, :, :, None].expand(-1, -1, -1, 2, -1).reshape(2, 4, 2, 8))
    (reason,) = reasons(RULE, function, q, k, v)
    assert "does not repeat each head" in reason


def test_batches_that_are_repeated() -> None:
    function = attention(lambda x: x.expand(2, 6, -1, -1))
    assert reasons(RULE, function, Q, ONE_K[:1], ONE_V[:1]) == [
        "query is f32[2, 6, 3, 8], key f32[1, 1, 40, 8]: expected [B, H, S, D] and [B, G, T, D]"
    ]


def test_only_keys_are_repeated() -> None:
    (reason,) = reasons(RULE, lambda q, k, v: sdpa(q, k.repeat_interleave(3, 1), v), Q, K, normal(2, 6, 40, 5))
    assert reason == "6 heads of queries, 6 of keys, 6 of values"


def test_repeated_keys_that_are_used_elsewhere() -> None:
    def function(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        keys = repeat_kv(k, 3)
        return sdpa(q, keys, repeat_kv(v, 3)), keys

    (reason,) = reasons(RULE, function, Q, K, V)
    assert "is also used by %output" in reason


def test_elsewhere_than_on_cpus() -> None:
    context = PassContext(target=Target("cuda", "sm_90"))
    (reason,) = reasons(RULE, attention(REPEATS["transformers"]), Q, K, V, context=context)
    assert reason.startswith("it was not measured on")
