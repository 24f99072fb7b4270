"""Masks proven causal or empty are dropped, however they are made; those that only look like it stay."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.export import Dim

from tests.helpers import FLOATS, assert_numbers, normal, rewritten
from tests.small import apply, find, graph_of, module, traced
from txgraph.ir import Graph, arguments, interpret
from txgraph.passes.canonicalize.normalize_views import NormalizeViews
from txgraph.passes.fuse.recognize_masks import RecognizeMasks
from txgraph.pipeline import Pipeline
from txgraph.rewrite import PassContext

RULE = RecognizeMasks()
FUSED = "scaled_dot_product_attention"
Q, K, V = normal(2, 3, 5, 8), normal(2, 3, 5, 8), normal(2, 3, 5, 8)
LOWEST = torch.finfo(torch.float32).min
INF = float("inf")
BOOL = torch.bool

Tensor = torch.Tensor
Mask = Callable[[int, int], Tensor]


def outcome(graph: Graph) -> str:
    """What became of the mask of the only attention."""
    named = arguments(find(graph, FUSED))
    if named["attn_mask"] is not None:
        assert not named["is_causal"]
        return "kept"
    return "causal" if named["is_causal"] else "none"


def judged(mask: Mask, q: Tensor = Q, k: Tensor = K, v: Tensor = V) -> str:
    """What becomes of a mask that is computed from the number of queries and keys; the numbers must be eager's."""

    def function(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, mask(q.shape[-2], k.shape[-2]))

    return outcome(rewritten(RULE, function, q, k, v))


def judged_constant(mask: Tensor, q: Tensor = Q, k: Tensor = K, v: Tensor = V) -> str:
    """The same of a mask that the model holds."""
    function = lambda q, k, v, mask: F.scaled_dot_product_attention(q, k, v, mask)  # noqa: E731
    return outcome(rewritten(RULE, function, q, k, v, mask=mask))


def keys(count: int) -> Tensor:
    return torch.arange(count)[None, :]


def queries(count: int) -> Tensor:
    return torch.arange(count)[:, None]


def visible(s: int, t: int) -> Tensor:
    return keys(t) <= queries(s)


def cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    result: Tensor = torch.ops.aten._to_copy(tensor, dtype=dtype)
    return result


def number(value: float) -> Tensor:
    """A number as a tensor of no axes, as in transformers' masks."""
    return torch.ops.aten.scalar_tensor(value, dtype=torch.float32)


CAUSAL: dict[str, Mask] = {
    "tril": lambda s, t: torch.ones(s, t, dtype=BOOL).tril(),
    "tril of floats": lambda s, t: cast(torch.ones(s, t).tril(), BOOL),
    "tril of ints, compared": lambda s, t: torch.ones(s, t, dtype=torch.int64).tril() != 0,
    "tril, compared": lambda s, t: torch.ones(s, t).tril() == 1,
    "not triu": lambda s, t: ~torch.ones(s, t, dtype=BOOL).triu(1),
    "logical not of triu": lambda s, t: torch.logical_not(torch.ones(s, t).triu(1)),
    "k <= q": visible,
    "q >= k": lambda s, t: queries(s) >= keys(t),
    "k < q + 1": lambda s, t: keys(t) < queries(s) + 1,
    "q + 1 > k": lambda s, t: 1 + queries(s) > keys(t),
    "k - 1 < q": lambda s, t: keys(t) - 1 < queries(s),
    "k - q <= 0": lambda s, t: keys(t) - queries(s) <= 0,
    "q - k >= 0": lambda s, t: queries(s) - keys(t) >= 0,
    "q - k > -1": lambda s, t: queries(s) - keys(t) > -1,
    "not k > q": lambda s, t: ~(keys(t) > queries(s)),
    "transposed": lambda s, t: (queries(t) <= keys(s)).transpose(0, 1),
    "sliced": lambda s, t: visible(9, 9)[:s, :t],
    "shifted alike": lambda s, t: (torch.arange(3, 3 + t) - 3)[None] <= torch.arange(7, 7 + s)[:, None] - 7,
    "sliced alike": lambda s, t: torch.arange(9)[2 : 2 + t][None] <= torch.arange(9)[2 : 2 + s][:, None],
    "expanded": lambda s, t: visible(s, t)[None, None].expand(2, 1, s, t),
    "cumsum": lambda s, t: torch.ones(t, dtype=torch.int64).cumsum(0)[None] <= queries(s) + 1,
    "and true": lambda s, t: visible(s, t) & torch.ones(s, t, dtype=BOOL),
    "and itself": lambda s, t: visible(s, t) & (queries(s) >= keys(t)),
    "or false": lambda s, t: visible(s, t) | torch.zeros(s, t, dtype=BOOL),
    "indexed": lambda s, t: visible(9, 9)[queries(s), keys(t)],
    "where": lambda s, t: torch.where(visible(s, t), torch.ones(s, t, dtype=BOOL), torch.zeros(s, t, dtype=BOOL)),
    "where, lowest": lambda s, t: torch.where(visible(s, t), 0.0, LOWEST),
    "where, -inf": lambda s, t: torch.where(visible(s, t), 0.0, -INF),
    "where, -0.0": lambda s, t: torch.where(visible(s, t), -0.0, -INF),
    "where, the other way round": lambda s, t: torch.where(keys(t) > queries(s), -INF, 0.0),
    "where, of tensors": lambda s, t: torch.where(visible(s, t), number(0.0), number(LOWEST)),
    "masked_fill": lambda s, t: torch.zeros(s, t).masked_fill(~visible(s, t), -INF),
    "masked_fill of tril": lambda s, t: torch.zeros(s, t).masked_fill(~torch.ones(s, t, dtype=BOOL).tril(), LOWEST),
    "full, then masked_fill": lambda s, t: torch.full((s, t), LOWEST).masked_fill(visible(s, t), 0),
    "full, then triu": lambda s, t: torch.full((s, t), -INF).triu(1),
    "full lowest, then triu": lambda s, t: torch.triu(torch.full((s, t), LOWEST), diagonal=1),
    "one minus, times lowest": lambda s, t: (1.0 - cast(visible(s, t), torch.float32)) * LOWEST,
}


@pytest.mark.parametrize("mask", CAUSAL.values(), ids=list(CAUSAL))
def test_causal(mask: Mask) -> None:
    assert judged(mask) == "causal"


@pytest.mark.parametrize("name", ["k <= q", "tril", "where, lowest", "full, then triu"])
@pytest.mark.parametrize(("s", "t"), [(2, 2), (5, 7), (7, 5), (2, 17), (0, 5)])
def test_causal_for_sizes(name: str, s: int, t: int) -> None:
    """Also where there are more keys than queries or fewer: both count from the first."""
    assert judged(CAUSAL[name], normal(1, 2, s, 8), normal(1, 2, t, 8), normal(1, 2, t, 8)) == "causal"


@pytest.mark.parametrize("name", ["k <= q", "tril", "where, lowest"])
def test_one_key_is_visible_to_all(name: str) -> None:
    assert judged(CAUSAL[name], k=K[:, :, :1], v=V[:, :, :1]) == "none"
    # Of one key and one query the mask stays: without it torch's kernel would lose NaN.
    assert judged(CAUSAL[name], Q[:, :, :1], K[:, :, :1], V[:, :, :1]) == "kept"


@pytest.mark.parametrize("name", ["k <= q", "tril", "where, lowest"])
def test_one_query_sees_the_first_key_only(name: str) -> None:
    """Of a single row nothing tells that it is the first of a triangle, so that it stays."""
    assert judged(CAUSAL[name], q=Q[:, :, :1]) == "kept"


EMPTY: dict[str, Mask] = {
    "ones": lambda s, t: torch.ones(s, t, dtype=BOOL),
    "full": lambda s, t: torch.full((s, t), True),
    "ones of ints": lambda s, t: cast(torch.ones(s, t, dtype=torch.int64), BOOL),
    "not zeros": lambda s, t: ~torch.zeros(s, t, dtype=BOOL),
    "k >= 0": lambda s, t: (keys(t) >= 0).expand(s, t),
    "k <= q or k > q": lambda s, t: visible(s, t) | (keys(t) > queries(s)),
    "additive zeros": lambda s, t: torch.zeros(s, t),
    "additive 0.0": lambda s, t: torch.full((s, t), 0.0),
    "additive -0.0": lambda s, t: torch.full((s, t), -0.0),
    "one minus one": lambda s, t: (1.0 - torch.ones(s, t)) * LOWEST,
    "one axis": lambda s, t: torch.ones(1, t, dtype=BOOL),
}


@pytest.mark.parametrize("mask", EMPTY.values(), ids=list(EMPTY))
def test_nothing_hidden(mask: Mask) -> None:
    assert judged(mask) == "none"


NEITHER: dict[str, Mask] = {
    "k < q": lambda s, t: keys(t) < queries(s),
    "k <= q + 1": lambda s, t: keys(t) <= queries(s) + 1,
    "k < q + 2": lambda s, t: keys(t) < queries(s) + 2,
    "k >= q": lambda s, t: keys(t) >= queries(s),
    "k > q": lambda s, t: keys(t) > queries(s),
    "k == q": lambda s, t: keys(t) == queries(s),
    "k <= 2 q": lambda s, t: keys(t) <= queries(s) * 2,
    "2 k <= q": lambda s, t: keys(t) * 2 <= queries(s),
    "k <= 2": lambda s, t: (keys(t) <= 2).expand(s, t),
    "tril above": lambda s, t: torch.ones(s, t, dtype=BOOL).tril(1),
    "tril below": lambda s, t: torch.ones(s, t, dtype=BOOL).tril(-1),
    "triu": lambda s, t: torch.ones(s, t, dtype=BOOL).triu(),
    "band": lambda s, t: torch.ones(s, t, dtype=BOOL).tril().triu(-1),
    "sliding window": lambda s, t: visible(s, t) & (keys(t) > queries(s) - 2),
    "chunks": lambda s, t: visible(s, t) & (keys(t) // 2 == queries(s) // 2),
    "blocks": lambda s, t: keys(t) // 2 <= queries(s) // 2,
    "prefix": lambda s, t: visible(s, t) | (keys(t) < 2),
    "aligned to the end": lambda s, t: keys(t) <= queries(s) + 3,
    "sliced apart": lambda s, t: visible(9, 9)[2 : 2 + s, :t],
    "columns sliced apart": lambda s, t: visible(9, 9)[:s, 1 : 1 + t],
    "stepped": lambda s, t: visible(20, 20)[: 2 * s : 2, :t],
    "index from the end": lambda s, t: (torch.arange(t)[torch.arange(t) - 1])[None] <= queries(s) - 1,
    "rounded indices": lambda s, t: cast(keys(t), torch.bfloat16) <= cast(queries(s), torch.bfloat16),
    "all hidden": lambda s, t: torch.zeros(s, t, dtype=BOOL),
    "sum of truths": lambda s, t: visible(s, t) + torch.ones(s, t, dtype=BOOL) == 2,
    "of NaN": lambda s, t: torch.full((s, t), float("nan")) == 0,
    "additive 0.5": lambda s, t: torch.full((s, t), 0.5),
    "additive causal, 1 where visible": lambda s, t: torch.where(visible(s, t), 1.0, -INF),
    "additive causal, -10000": lambda s, t: torch.where(visible(s, t), 0.0, -1e4),
    "additive causal, barely above the lowest": lambda s, t: torch.where(visible(s, t), 0.0, LOWEST * 0.99),
    "additive causal, +inf": lambda s, t: torch.where(visible(s, t), 0.0, INF),
    "additive, inverted": lambda s, t: torch.where(visible(s, t), -INF, 0.0),
    "additive tril": lambda s, t: torch.full((s, t), -1e38).tril(-1),
    "three values": lambda s, t: torch.where(visible(s, t), torch.where(keys(t) == queries(s), 0.0, 1.0), -INF),
}


@pytest.mark.parametrize("mask", NEITHER.values(), ids=list(NEITHER))
def test_neither(mask: Mask) -> None:
    assert judged(mask) == "kept"


def test_rounded_indices_in_a_long_sequence() -> None:
    """From 256 on bfloat16 skips integers: query 256 sees key 257."""
    long = normal(1, 1, 300, 8)
    assert judged(NEITHER["rounded indices"], long, long, long) == "kept"


@pytest.mark.parametrize("shape", [(5, 5), (1, 1, 5, 5), (2, 1, 5, 5), (2, 3, 5, 5)], ids=str)
def test_causal_constants(shape: tuple[int, ...]) -> None:
    triangle = torch.ones(shape, dtype=BOOL).tril()
    assert judged_constant(triangle) == "causal"
    assert judged_constant(torch.zeros(shape).masked_fill(~triangle, -INF)) == "causal"
    assert judged_constant(torch.zeros(shape).masked_fill(~triangle, LOWEST)) == "causal"
    assert judged_constant(torch.ones(shape, dtype=BOOL)) == "none"
    assert judged_constant(torch.zeros(shape)) == "none"


@pytest.mark.parametrize("shape", [(5, 1), (1, 5), (1, 1), (1, 1, 5, 1), (1, 1, 1, 5)], ids=str)
def test_constants_with_one_row_or_column(shape: tuple[int, ...]) -> None:
    """A column of ones equals the triangle of its own shape, but stands for every key."""
    assert judged_constant(torch.ones(shape, dtype=BOOL)) == ("kept" if shape == (1, 1) else "none")
    if shape[-1] == 5:
        assert judged_constant(torch.ones(shape, dtype=BOOL).tril()) == "kept"


def test_constants_that_are_neither() -> None:
    triangle = torch.ones(5, 5, dtype=BOOL).tril()
    for at in ((0, 4), (4, 0), (2, 2), (2, 3)):
        flipped = triangle.clone()
        flipped[at] = ~flipped[at]
        if bool(flipped.any(1).all()):
            assert judged_constant(flipped) == "kept"
        assert judged_constant(torch.zeros(5, 5).masked_fill(~flipped, -1e30)) == "kept"
    one_of_two = torch.stack([triangle, torch.ones_like(triangle)])[:, None]
    assert judged_constant(one_of_two) == "kept"
    assert judged_constant(normal(5, 5)) == "kept"


def test_column_of_indices_compared() -> None:
    """Zeros of one column equal the count of one element, but not that of five."""
    function = lambda q, k, v, zeros: F.scaled_dot_product_attention(q, k, v, zeros.expand(5, 5) < queries(5))  # noqa: E731
    after = rewritten(RULE, function, Q, K, V, zeros=torch.zeros(5, 1, dtype=torch.int64))
    assert outcome(after) == "kept"


def test_the_graph_depends_on_the_constant_it_read() -> None:
    function = lambda q, k, v, mask: F.scaled_dot_product_attention(q, k, v, mask)  # noqa: E731
    after = rewritten(RULE, function, Q, K, V, mask=torch.ones(5, 5, dtype=BOOL).tril())
    assert after.constants.frozen_values() == {"mask"}
    after = rewritten(RULE, function, Q, K, V, mask=normal(5, 5))
    assert after.constants.frozen_values() == frozenset()


def test_constant_that_the_model_writes_to() -> None:
    class Growing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mask", torch.ones(5, 5, dtype=BOOL))

        def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            result = F.scaled_dot_product_attention(q, k, v, self.mask)
            self.mask.copy_(self.mask.tril())
            return result

    graph = graph_of(Growing(), Q, K, V)
    assert [m.target for m in graph.mutations] == ["mask"]
    assert apply(RULE, graph)[1] == []


def test_mask_from_an_input() -> None:
    function = lambda q, k, v, mask: F.scaled_dot_product_attention(q, k, v, mask & visible(5, 5))  # noqa: E731
    padding = torch.ones(2, 1, 1, 5, dtype=BOOL)
    assert outcome(rewritten(RULE, function, Q, K, V, padding)) == "kept"
    function = lambda q, k, v, mask: F.scaled_dot_product_attention(q, k, v, mask)  # noqa: E731
    assert outcome(rewritten(RULE, function, Q, K, V, torch.ones(5, 5, dtype=BOOL).tril())) == "kept"


def test_no_mask_and_the_flag_itself() -> None:
    for causal in (False, True):
        graph = traced(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=causal), Q, K, V)  # noqa: B023
        assert apply(RULE, graph)[1] == []


@pytest.mark.parametrize("scale", [None, 0.5, 0.0, -1.0])
@pytest.mark.parametrize("mask", [visible, EMPTY["ones"]])
def test_scale_is_kept(scale: float | None, mask: Mask) -> None:
    """With the flag torch's CPU kernel scales -inf too, which a scale of 0 or less turns into NaN or +inf."""
    function = lambda q, k, v: F.scaled_dot_product_attention(q, k, v, mask(5, 5), scale=scale)  # noqa: E731
    after = rewritten(RULE, function, Q, K, V)
    positive = scale is None or scale > 0
    assert outcome(after) == (("causal" if positive else "kept") if mask is visible else "none")
    assert arguments(find(after, FUSED))["scale"] == scale


def test_grouped_heads_are_kept() -> None:
    function = lambda q, k, v: F.scaled_dot_product_attention(q, k, v, visible(5, 5), enable_gqa=True)  # noqa: E731
    after = rewritten(RULE, function, normal(2, 4, 5, 8), normal(2, 2, 5, 8), normal(2, 2, 5, 8))
    assert outcome(after) == "causal"
    assert arguments(find(after, FUSED))["enable_gqa"] is True


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_dtypes(dtype: torch.dtype) -> None:
    inputs = [t.to(dtype) for t in (Q, K, V)]
    lowest = torch.finfo(dtype).min
    assert judged(visible, *inputs) == "causal"
    assert judged(lambda s, t: torch.full((s, t), -INF, dtype=dtype).triu(1), *inputs) == "causal"
    assert judged(lambda s, t: torch.full((s, t), lowest, dtype=dtype).triu(1), *inputs) == "causal"
    assert judged(lambda s, t: torch.full((s, t), lowest / 2, dtype=dtype).triu(1), *inputs) == "kept"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_lowest_number_of_a_wider_dtype(dtype: torch.dtype) -> None:
    """Made in float32 and cast: float16 makes it -inf, bfloat16 its own lowest number or -inf."""
    inputs = [t.to(dtype) for t in (Q, K, V)]
    assert judged(lambda s, t: cast(torch.where(visible(s, t), 0.0, LOWEST), dtype), *inputs) == "causal"


@pytest.mark.parametrize("value", [-0.0, 1e-40, 1e30, -1e30])
def test_edge_values(value: float) -> None:
    for which in range(3):
        inputs = [Q.clone(), K.clone(), V.clone()]
        inputs[which][:, :, 2] = value
        assert judged(visible, *inputs) == "causal"
        assert judged(EMPTY["additive zeros"], *inputs) == "none"


@pytest.mark.parametrize("value", [float("nan"), INF])
def test_not_finite_in_what_every_row_sees(value: float) -> None:
    """In keys that a row does not see the fused operator ignores them, where eager makes NaN: not compared here."""
    long = [normal(1, 2, 32, 8) for _ in range(3)]
    long[1][:, :, 0] = value
    assert judged(visible, *long) == "causal"
    assert judged(EMPTY["additive zeros"], *long) == "none"


@pytest.mark.parametrize("name", ["k <= q", "full, then triu", "masked_fill"])
def test_dynamic_sizes(name: str) -> None:
    mask = CAUSAL[name]
    model = module(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, mask(q.shape[-2], k.shape[-2])))
    axes = {0: Dim("B"), 2: Dim("S")}
    after, _ = apply(RULE, graph_of(model, Q, K, V, dynamic_shapes=(axes, axes, axes)))
    assert outcome(after) == "causal"
    for size in (2, 3, 17):
        assert_numbers(after, model.forward, *[normal(4, 3, size, 8)] * 3)


def test_dynamic_queries_at_the_end_of_the_keys() -> None:
    """As in decoding with a cache: the first query has the position T - S."""

    def function(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        s, t = q.shape[-2], k.shape[-2]
        return F.scaled_dot_product_attention(q, k, v, keys(t) <= queries(s) + (t - s))

    shapes = ({2: Dim("S", min=2, max=8)}, {2: Dim("T", min=9)}, {2: Dim("T", min=9)})
    graph = graph_of(function, Q, normal(2, 3, 11, 8), normal(2, 3, 11, 8), dynamic_shapes=shapes)
    assert apply(RULE, graph)[1] == []
    same = {2: Dim("S", min=2, max=64)}
    after, _ = apply(RULE, graph_of(function, Q, K, V, dynamic_shapes=(same, same, same)))
    assert outcome(after) == "causal"


def test_dynamic_slices_from_the_end() -> None:
    """Where the start of a slice is not known to be positive there is no formula, and no error."""

    def function(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        start = 64 - q.shape[-2]
        return F.scaled_dot_product_attention(q, k, v, torch.arange(64)[start:][None] <= queries(q.shape[-2]))

    same = {2: Dim("S", min=2, max=64)}
    assert apply(RULE, graph_of(function, Q, K, V, dynamic_shapes=(same, same, same)))[1] == []


def legacy(s: int, t: int) -> Tensor:
    """As early versions of transformers made it."""
    condition = torch.arange(t)
    mask = torch.full((s, t), LOWEST)
    mask = mask.masked_fill(condition < (condition + 1).view(t, 1), 0)
    return mask[None, None, :, :].expand(2, 1, s, t)


def vmapped(s: int, t: int) -> Tensor:
    """As transformers makes it: a function of one query and one key, mapped over both."""

    def causal(query: Tensor, key: Tensor) -> Tensor:
        return key <= query

    inner = torch.vmap(causal, in_dims=(None, 0))
    return torch.vmap(inner, in_dims=(0, None))(torch.arange(s), torch.arange(t))


@pytest.mark.parametrize("mask", [legacy, vmapped, lambda s, t: nn.Transformer.generate_square_subsequent_mask(s)])
def test_libraries(mask: Mask) -> None:
    model = module(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, mask(q.shape[-2], k.shape[-2])))
    after, _ = Pipeline((NormalizeViews(), RULE)).run(graph_of(model, Q, K, V), PassContext())
    assert outcome(after) == "causal"
    assert_numbers(after, model.forward, Q, K, V)


def test_mask_deeper_than_the_stack() -> None:
    def mask(s: int, t: int) -> Tensor:
        result = visible(s, t)
        for _ in range(500):
            result = result & torch.ones(s, t, dtype=BOOL)
        return result

    function = lambda q, k, v: F.scaled_dot_product_attention(q, k, v, mask(5, 5))  # noqa: E731
    graph = traced(function, Q, K, V)
    after, _ = apply(RULE, graph)
    assert outcome(after) == "causal"


def test_mask_used_twice_and_elsewhere() -> None:
    def function(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        mask = visible(5, 5)
        for _ in range(2):
            q = F.scaled_dot_product_attention(q, k, v, mask)
        return q, mask

    graph = traced(function, Q, K, V)
    after, rewrites = apply(RULE, graph)
    assert len(rewrites) == 2
    assert after.count()["le"] == 1
    for value, expected in zip(interpret(after, [Q, K, V]), function(Q, K, V), strict=True):
        torch.testing.assert_close(value, expected)
