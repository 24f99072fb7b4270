"""Decomposed attention becomes one operator, and nothing that only looks like it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import pytest
import torch
from torch import nn
from torch.export import Dim

from tests.helpers import FLOATS, assert_numbers, normal, reasons, rewritten
from tests.small import apply, find, graph_of, module, traced
from txgraph.ir import DTYPE_NAMES, Graph, arguments, interpret, op_name
from txgraph.passes.fuse.fuse_attention import FuseAttention

# What it makes, and when that is legal; at sizes as small as these it often does not pay.
RULE = type("FuseAttention", (FuseAttention,), {"gain": lambda *_: None})()
FUSED = "scaled_dot_product_attention"
CAPPED_FUSED = "txgraph::softcap_attention"
Q, K, V = normal(2, 3, 4, 8), normal(2, 3, 5, 8), normal(2, 3, 5, 8)
HIDDEN = torch.arange(40).reshape(2, 1, 4, 5) % 3 == 0  # no row is hidden as a whole
LOWEST = torch.finfo(torch.float32).min
CORRECTED = "masked_fill"  # rows that see no key are made NaN after the fused operator, as they are in eager

Tensor = torch.Tensor
Change = Callable[[Tensor], Tensor]


def attention(scores: Change = lambda s: s * 0.3, weights: Change = lambda s: s.softmax(-1)) -> Callable[..., Tensor]:
    """Decomposed attention with its parts replaced."""
    return lambda q, k, v: weights(scores(q @ k.transpose(-2, -1))) @ v


def cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    result: Tensor = torch.ops.aten._to_copy(tensor, dtype=dtype)
    return result


def masked(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    return (q @ k.transpose(-2, -1) * 0.3 + mask).softmax(-1) @ v


def additive(hidden: Tensor, value: float, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.zeros(hidden.shape, dtype=dtype).masked_fill(hidden, value)


def options(graph: Graph) -> tuple[Any, float]:
    """The mask and the scale of the only attention, when nothing else is left."""
    named = arguments(find(graph, FUSED))
    assert named["dropout_p"] == 0
    assert named["is_causal"] is named["enable_gqa"] is False
    mask = named["attn_mask"]
    return None if mask is not None and op_name(mask) == "zeros" else mask, named["scale"]


def count(graph: Graph) -> dict[str, int]:
    """The operators, without the mask of one zero that few keys get so that NaN is not lost."""
    return {name: number for name, number in graph.count().items() if name != "zeros"}


SCALES: list[tuple[Change, float]] = [
    (lambda s: s * 0.25, 0.25),
    (lambda s: 2 * s, 2.0),
    (lambda s: s / 4, 0.25),
    (lambda s: s / 2.5, 0.4),
    (lambda s: s, 1.0),
    (lambda s: s * -0.5, -0.5),
    (lambda s: s / -2, -0.5),
    (lambda s: s * 0.0, 0.0),
]


@pytest.mark.parametrize(("scores", "scale"), SCALES)
def test_scales(scores: Change, scale: float) -> None:
    after = rewritten(RULE, attention(scores), Q, K, V)
    assert count(after) == {FUSED: 1}
    assert options(after) == (None, scale)


@pytest.mark.parametrize("axes", [(-2, -1), (-1, -2), (2, 3), (3, -2)])
def test_ways_to_name_the_axes_of_the_key(axes: tuple[int, int]) -> None:
    after = rewritten(RULE, lambda q, k, v: (q @ k.transpose(*axes)).softmax(3) @ v, Q, K, V)
    assert count(after) == {FUSED: 1}


def sums(scores: Tensor, bias: Tensor, mask: Tensor) -> Iterator[Tensor]:
    """All orders in which a bias and a mask are added to the scores first, one after the other."""
    for mask_left, bias_left in product((False, True), repeat=2):
        biased = bias + scores if bias_left else scores + bias
        yield mask + biased if mask_left else biased + mask


@pytest.mark.parametrize("order", range(4))
@pytest.mark.parametrize("scale", [None, 0.5])
def test_bias_and_mask_on_either_side(order: int, scale: float | None) -> None:
    def function(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, mask: Tensor) -> Tensor:
        scores = q @ k.transpose(-2, -1) if scale is None else q @ k.transpose(-2, -1) * scale
        return list(sums(scores, bias, mask))[order].softmax(-1) @ v

    after = rewritten(RULE, function, Q, K, V, bias=normal(1, 3, 4, 5), mask=additive(HIDDEN, LOWEST / 2))
    assert count(after) == {"add": 1, FUSED: 1}
    assert options(after) == (find(after, "add"), scale or 1.0)


@pytest.mark.parametrize("scale", [-0.5, 0.0, 1e-30])
def test_unusual_scales_with_a_mask(scale: float) -> None:
    def function(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        return (q @ k.transpose(-2, -1) * scale + mask).softmax(-1) @ v

    after = rewritten(RULE, function, Q, K, V, mask=additive(HIDDEN, LOWEST))
    assert options(after) == (find(after, "get_attr"), scale)


def test_only_the_mask_on_either_side() -> None:
    for function in (masked, lambda q, k, v, mask: (mask + q @ k.transpose(-2, -1) * 0.3).softmax(-1) @ v):
        after = rewritten(RULE, function, Q, K, V, mask=additive(HIDDEN, LOWEST))
        assert count(after) == {FUSED: 1}
        assert options(after) == (find(after, "get_attr"), 0.3)


MASK_SHAPES = [(2, 3, 4, 5), (2, 1, 4, 5), (2, 1, 1, 5), (1, 3, 4, 5), (1, 1, 1, 1), (3, 4, 5), (4, 5), (1, 5), (4, 1)]


@pytest.mark.parametrize("shape", MASK_SHAPES, ids=str)
def test_masks_that_broadcast_into_the_scores(shape: tuple[int, ...]) -> None:
    after = rewritten(RULE, masked, Q, K, V, mask=normal(*shape))
    assert count(after) == {FUSED: 1}


def test_a_mask_made_from_an_input() -> None:
    def function(q: Tensor, k: Tensor, v: Tensor, hidden: Tensor) -> Tensor:
        mask = torch.where(hidden, LOWEST, 0.0)
        return (q @ k.transpose(-2, -1) + mask).softmax(-1) @ v

    assert count(rewritten(RULE, function, Q, K, V, HIDDEN)) == {FUSED: 1, "where": 1}


def test_a_mask_of_truths_turned_into_numbers() -> None:
    def function(q: Tensor, k: Tensor, v: Tensor, kept: Tensor) -> Tensor:
        mask = (1.0 - cast(kept, torch.float32)) * LOWEST
        return (q @ k.transpose(-2, -1) + mask).softmax(-1) @ v

    assert CORRECTED not in count(rewritten(RULE, function, Q, K, V, ~HIDDEN))
    numbers = (~HIDDEN).long()
    numbers[0, 0, 0] = -2  # 3 * LOWEST is -inf: a row of NaN in eager
    assert CORRECTED in count(rewritten(RULE, function, Q, K, V, numbers))


def test_casts_between_softmax_and_product_that_change_nothing() -> None:
    def function(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        weights = torch.softmax(q @ k.transpose(-2, -1), -1, dtype=torch.float32)
        return cast(weights, torch.float32) @ v

    assert count(rewritten(RULE, function, Q, K, V)) == {FUSED: 1}


SHAPES: list[tuple[tuple[int, ...], ...]] = [
    ((1, 1, 1, 1), (1, 1, 1, 1), (1, 1, 1, 1)),
    ((2, 2, 2, 2), (2, 2, 2, 2), (2, 2, 2, 2)),
    ((1, 3, 13, 7), (1, 3, 17, 7), (1, 3, 17, 7)),
    ((1, 2, 3, 4, 8), (1, 2, 3, 5, 8), (1, 2, 3, 5, 8)),
    ((2, 3, 4, 8), (2, 3, 5, 8), (2, 3, 5, 6)),  # values of another size than keys
    ((2, 3, 4, 8), (2, 1, 5, 8), (2, 1, 5, 8)),  # one head of keys for all queries
    ((1, 3, 4, 8), (2, 3, 5, 8), (2, 3, 5, 8)),
    ((1, 3, 4, 8), (1, 3, 5, 8), (2, 3, 5, 8)),  # only the values have a batch
    ((0, 3, 4, 8), (0, 3, 5, 8), (0, 3, 5, 8)),
    ((2, 3, 0, 8), (2, 3, 5, 8), (2, 3, 5, 8)),
    ((2, 3, 4, 8), (2, 3, 0, 8), (2, 3, 0, 8)),  # no keys: zeros
    ((2, 3, 4, 0), (2, 3, 5, 0), (2, 3, 5, 8)),  # all scores are zero
    ((2, 3, 4, 8), (2, 3, 5, 8), (2, 3, 5, 0)),
]


@pytest.mark.parametrize("shapes", SHAPES, ids=str)
def test_shapes(shapes: tuple[tuple[int, ...], ...]) -> None:
    assert count(rewritten(RULE, attention(), *(normal(*s) for s in shapes))) == {FUSED: 1}


@pytest.mark.parametrize("mask", [(3, 4, 5), (3, 1, 5), (4, 5), (1, 1, 5)], ids=str)
def test_three_axes(mask: tuple[int, ...]) -> None:
    after = rewritten(RULE, masked, Q[0], K[0], V[0], mask=normal(*mask))
    assert count(after) == {FUSED: 1}


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("with_mask", [False, True])
def test_dtypes(dtype: torch.dtype, with_mask: bool) -> None:
    inputs = [t.to(dtype) for t in (Q, K, V)]
    if with_mask:
        after = rewritten(RULE, masked, *inputs, mask=additive(HIDDEN, -1e4, dtype))
    else:
        after = rewritten(RULE, attention(), *inputs)
    assert count(after) == {FUSED: 1}


EDGES: list[Callable[[Tensor], Tensor]] = [
    lambda t: t.index_fill(2, torch.tensor(1), float("nan")),
    lambda t: t.index_fill(2, torch.tensor(1), -0.0),
    lambda t: t * 1e-30,
    lambda t: t * 1e-45,
    lambda t: t * 1e15,
    lambda t: torch.zeros_like(t),
]


@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize("which", range(3))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_edge_values(edge: Callable[[Tensor], Tensor], which: int, dtype: torch.dtype) -> None:
    # 32 keys: torch's CPU kernel loses the NaN of a query that has fewer keys than a vector register has lanes.
    inputs = [normal(1, 2, 4, 8, dtype=dtype), normal(1, 2, 32, 8, dtype=dtype), normal(1, 2, 32, 8, dtype=dtype)]
    inputs[which] = edge(inputs[which])
    assert count(rewritten(RULE, attention(), *inputs)) == {FUSED: 1}
    mask = additive(normal(4, 32) > 0.5, -1e4, dtype)
    assert count(rewritten(RULE, masked, *inputs, mask=mask)) == {FUSED: 1}


@pytest.mark.parametrize("value", [float("inf"), float("-inf")])
def test_infinite_values(value: float) -> None:
    rewritten(RULE, attention(), Q, K, V.index_fill(2, torch.tensor(1), value))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_row_without_any_key(dtype: torch.dtype) -> None:
    """The lowest number in a whole row hides nothing: in eager as in the fused operator all keys weigh the same."""
    hidden = HIDDEN.clone()
    hidden[0, :, 1] = True
    inputs = [t.to(dtype) for t in (Q, K, V)]
    after = rewritten(RULE, masked, *inputs, mask=additive(hidden, torch.finfo(dtype).min, dtype))
    assert count(after) == {FUSED: 1}
    (result,) = interpret(after, inputs)
    mean = inputs[2][0].float().mean(1)
    torch.testing.assert_close(result[0, :, 1].float(), mean, rtol=0.02, atol=0.02)


def test_positive_infinity_in_the_mask_is_nan_as_in_eager() -> None:
    mask = additive(HIDDEN, 0.0)
    mask[0, 0, 0, 0] = float("inf")
    after = rewritten(RULE, masked, Q, K, V, mask=mask)
    assert interpret(after, [Q, K, V])[0][0, :, 0].isnan().all()


@pytest.mark.parametrize("layout", ["transposed", "expanded", "sliced"])
def test_inputs_of_any_layout(layout: str) -> None:
    heads_last = normal(2, 4, 3, 16)
    query = {
        "transposed": heads_last.transpose(1, 2)[..., :8],
        "expanded": normal(1, 1, 1, 8).expand(2, 3, 4, 8),
        "sliced": normal(2, 3, 9, 17)[:, :, 1::2, 1::2],
    }[layout]
    after = traced(attention(), Q, K, V)
    after, _ = apply(RULE, after)
    assert_numbers(after, attention(), query, K, V)


def test_a_view_of_the_result() -> None:
    """The fused operator may lay its result out in another way; views of it still work."""
    rewritten(RULE, lambda q, k, v: ((q @ k.transpose(-2, -1)).softmax(-1) @ v).view(2, 12, 8), Q, K, V)
    rewritten(
        RULE, lambda q, k, v: ((q @ k.transpose(-2, -1)).softmax(-1) @ v).transpose(1, 2).reshape(2, 4, 24), Q, K, V
    )


def test_dynamic_sizes() -> None:
    model = module(lambda q, k, v: (q @ k.transpose(-2, -1) / 2.0).softmax(-1) @ v)
    axes = {"q": {0: Dim("B"), 2: Dim("S")}, "k": {0: Dim("B"), 2: Dim("T")}, "v": {0: Dim("B"), 2: Dim("T")}}
    graph = graph_of(model, Q, K, V, dynamic_shapes=tuple(axes.values()))
    after, rewrites = apply(RULE, graph)
    assert len(rewrites) == 1
    assert count(after) == {FUSED: 1}
    for b, s, t in ((2, 4, 5), (3, 7, 2), (5, 2, 11)):
        assert_numbers(after, model.forward, normal(b, 3, s, 8), normal(b, 3, t, 8), normal(b, 3, t, 8))


def test_several_attentions() -> None:
    def function(x: Tensor) -> Tensor:
        for _ in range(3):
            x = (x @ x.transpose(-2, -1) * 0.1).softmax(-1) @ x
        return x

    assert count(rewritten(RULE, function, normal(2, 2, 5, 8))) == {FUSED: 3}


def test_what_it_records() -> None:
    graph = graph_of(module(lambda q, k, v: (q @ k.transpose(-2, -1) * 0.5).softmax(-1) @ v), Q, K, V)
    after, (rewrite,) = apply(RULE, graph)
    assert rewrite.rule == "fuse-attention"
    assert len(rewrite.removed) == 4  # the transposed key stays for those who read it, or is dead
    assert rewrite.made == (find(after, "zeros").name, find(after, FUSED).name)
    assert find(after, FUSED).meta["txgraph_passes"] == ("fuse-attention",)


# What must not be fused, and why.


def leaking(which: str) -> Callable[..., tuple[Tensor, Tensor]]:
    def function(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        values = {"product": q @ k.transpose(-2, -1)}
        values["scaled"] = values["product"] * 0.5
        values["weights"] = values["scaled"].softmax(-1)
        return values["weights"] @ v, values[which] + 1

    return function


@pytest.mark.parametrize("which", ["product", "scaled", "weights"])
def test_inner_value_used_elsewhere(which: str) -> None:
    (reason, *_) = reasons(RULE, leaking(which), Q, K, V)
    name = {"product": "matmul", "scaled": "mul", "weights": "softmax"}[which]
    assert reason == f"inner value %{name} is also used by %add"


def test_inner_value_returned() -> None:
    def function(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        weights = (q @ k.transpose(-2, -1)).softmax(-1)
        return weights @ v, weights

    assert "is also used by %output" in reasons(RULE, function, Q, K, V)[0]


def test_matrices_without_a_batch() -> None:
    assert "expected the same rank, 3 or more" in reasons(RULE, attention(), Q[0, 0], K[0, 0], V[0, 0])[0]


def test_different_ranks() -> None:
    assert "expected the same rank" in reasons(RULE, attention(), Q, K, V[0])[0]
    assert "expected the same rank" in reasons(RULE, attention(), Q, K[0], V)[0]


KEYS: list[Change] = [
    lambda k: k,
    lambda k: k.transpose(1, 2),
    lambda k: k.permute(0, 2, 3, 1),
    lambda k: k.transpose(-2, -1) * 2,
    lambda k: k.transpose(-2, -1).contiguous(),
]


@pytest.mark.parametrize("key", KEYS)
def test_keys_that_are_not_just_transposed(key: Change) -> None:
    """Whatever the second factor is, its transpose is the key."""
    square = normal(2, 4, 4, 4)
    after = rewritten(RULE, lambda q, k, v: (q @ key(k)).softmax(-1) @ v, *[square] * 3)
    assert count(after)[FUSED] == 1


def test_numbers_that_query_and_key_are_multiplied_by() -> None:
    after = rewritten(RULE, lambda q, k, v: ((q * 0.5) @ (k * 0.25).transpose(-2, -1)).softmax(-1) @ v, Q, K, V)
    assert count(after) == {FUSED: 1}
    assert options(after) == (None, 0.125)


def test_query_multiplied_by_a_tensor_or_by_infinity() -> None:
    assert count(rewritten(RULE, lambda q, k, v: attention()(q * q, k, v), Q, K, V)) == {FUSED: 1, "mul": 1}
    graph = traced(lambda q, k, v: attention()(q * float("inf"), k, v), Q, K, V)
    assert count(apply(RULE, graph)[0]) == {FUSED: 1, "mul": 1}


@pytest.mark.parametrize("axis", [0, 1, 2, -2])
def test_softmax_over_another_axis(axis: int) -> None:
    found = reasons(RULE, attention(weights=lambda s: s.softmax(axis)), *[normal(2, 4, 4, 4)] * 3)
    assert found[0] == "the softmax is not over the keys"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_softmax_in_float32_of_a_16_bit_model(dtype: torch.dtype) -> None:
    """As transformers' eager attention does it: the island stays."""
    found = reasons(
        RULE,
        attention(weights=lambda s: cast(torch.softmax(s, -1, dtype=torch.float32), dtype)),
        *[t.to(dtype) for t in (Q, K, V)],
    )
    name = DTYPE_NAMES[dtype]
    assert found[0] == f"the softmax is computed in f32, query, key and value are {name}, {name} and {name}"


def test_scores_upcast_before_the_softmax() -> None:
    function = attention(weights=lambda s: cast(cast(s, torch.float32).softmax(-1), torch.bfloat16))
    found = reasons(RULE, function, *[t.bfloat16() for t in (Q, K, V)])
    assert found[0].startswith("expected matmul, found %_to_copy")


def test_weights_cast_to_another_dtype() -> None:
    def function(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return cast((q @ k.transpose(-2, -1)).softmax(-1), torch.float64) @ v

    found = reasons(RULE, function, Q, K, V.double())
    assert found[0] == "the softmax is computed in f32, query, key and value are f32, f32 and f64"


def test_scale_that_is_a_tensor() -> None:
    found = reasons(
        RULE, lambda q, k, v, s: (q @ k.transpose(-2, -1) * s).softmax(-1) @ v, Q, K, V, s=torch.tensor(0.5)
    )
    assert found[0].startswith("expected a number for 'factor', found %s")


@pytest.mark.parametrize(
    ("scores", "factor"),
    [(lambda s: s / 0, "nan"), (lambda s: s * float("inf"), "inf"), (lambda s: s * float("nan"), "nan")],
)
def test_scale_that_is_not_finite(scores: Change, factor: str) -> None:
    assert reasons(RULE, attention(scores), Q, K, V)[0] == f"the scores are scaled by {factor}"


def test_division_that_rounds() -> None:
    found = reasons(RULE, attention(lambda s: torch.div(s, 2, rounding_mode="floor")), Q, K, V)
    assert found[0] == "div has rounding_mode='floor'"


def test_mask_added_with_a_factor() -> None:
    def function(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        return torch.add(q @ k.transpose(-2, -1), mask, alpha=2).softmax(-1) @ v

    assert reasons(RULE, function, Q, K, V, mask=normal(4, 5))[0] == "add has alpha=2"


def test_mask_subtracted() -> None:
    found = reasons(RULE, lambda q, k, v, m: (q @ k.transpose(-2, -1) - m).softmax(-1) @ v, Q, K, V, m=normal(4, 5))
    assert found[0] == "expected matmul, found %sub = sub"


def test_number_added_to_the_scores() -> None:
    assert reasons(RULE, attention(lambda s: s + 1.5), Q, K, V)[0] == "the mask is 1.5, expected torch.float32"


def test_three_terms_added() -> None:
    def function(q: Tensor, k: Tensor, v: Tensor, m: Tensor) -> Tensor:
        return (q @ k.transpose(-2, -1) + m + m * 2 + m * 3).softmax(-1) @ v

    assert count(rewritten(RULE, function, Q, K, V, m=normal(4, 5))) == {"add": 2, FUSED: 1, "mul": 2}


def test_scale_outside_of_the_mask() -> None:
    def function(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, mask: Tensor) -> Tensor:
        return ((q @ k.transpose(-2, -1) + bias) * 0.5 + mask).softmax(-1) @ v

    after = rewritten(RULE, function, Q, K, V, bias=normal(4, 5), mask=additive(HIDDEN, LOWEST))
    assert count(after) == {"add": 1, FUSED: 1, "mul": 1}
    assert options(after) == (find(after, "add"), 0.5)


def test_too_many_steps() -> None:
    def scores(s: Tensor) -> Tensor:
        for _ in range(9):
            s = s * 1.5
        return s

    assert apply(RULE, traced(attention(scores), Q, K, V))[1] == []


@pytest.mark.parametrize("dtype", [torch.float64, torch.bool, torch.int64])
def test_mask_of_another_dtype(dtype: torch.dtype) -> None:
    wide = [t.double() for t in (Q, K, V)] if dtype is torch.float64 else [Q, K, V]
    mask = torch.ones(4, 5, dtype=torch.float32 if dtype is torch.float64 else dtype)
    expected = "torch.float64" if dtype is torch.float64 else "torch.float32"
    found = reasons(RULE, masked, *wide, mask=mask)[0]
    assert found.startswith("the mask is ")
    assert found.endswith(f"expected {expected}")


def filled(value: float, change: Change = lambda s: s) -> Callable[..., Tensor]:
    return lambda q, k, v, hidden: change((q @ k.transpose(-2, -1)).masked_fill(hidden, value)).softmax(-1) @ v


BLIND = HIDDEN.clone()
BLIND[0, :, 1] = True  # one row sees no key


@pytest.mark.parametrize("value", [LOWEST, -1e9, -1e4, float("-inf")])
@pytest.mark.parametrize("hidden", [HIDDEN, BLIND], ids=["some", "a whole row"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_scores_filled_in(value: float, hidden: Tensor, dtype: torch.dtype) -> None:
    inputs = [t.to(dtype) for t in (Q, K, V)]
    value = max(value, torch.finfo(dtype).min) if value == LOWEST else value
    after = rewritten(RULE, filled(value), *inputs, hidden)
    assert count(after)[FUSED] == 1
    mask = arguments(find(after, FUSED))["attn_mask"]
    assert mask.meta["val"].dtype is (torch.bool if value == -float("inf") else dtype)


@pytest.mark.parametrize("factor", [0.5, 3.0])
@pytest.mark.parametrize("value", [-1e4, float("-inf")])
def test_scores_scaled_after_they_are_filled_in(factor: float, value: float) -> None:
    assert count(rewritten(RULE, filled(value, lambda s: s * factor), Q, K, V, BLIND))[FUSED] == 1


@pytest.mark.parametrize("bias_first", [True, False])
@pytest.mark.parametrize("value", [LOWEST, -1e9, float("-inf")])
def test_scores_filled_in_with_a_bias(bias_first: bool, value: float) -> None:
    bias = normal(3, 4, 5)

    def function(q: Tensor, k: Tensor, v: Tensor, hidden: Tensor, bias: Tensor) -> Tensor:
        scores = q @ k.transpose(-2, -1)
        scores = (scores + bias).masked_fill(hidden, value) if bias_first else scores.masked_fill(hidden, value) + bias
        return scores.softmax(-1) @ v

    for hidden in (HIDDEN, BLIND):
        assert count(rewritten(RULE, function, Q, K, V, hidden, bias=bias))[FUSED] == 1


@pytest.mark.parametrize("value", [0.0, -100.0, 1e4, float("nan"), float("inf")])
def test_filled_with_a_number_that_hides_nothing(value: float) -> None:
    assert reasons(RULE, filled(value), Q, K, V, HIDDEN)[0].endswith("which may not hide them")


def test_filled_over_a_mask_that_is_as_low() -> None:
    def function(q: Tensor, k: Tensor, v: Tensor, hidden: Tensor) -> Tensor:
        scores = q @ k.transpose(-2, -1) + torch.where(hidden, LOWEST, 0.0)
        return scores.masked_fill(hidden.roll(1, -1), -1e4).softmax(-1) @ v

    assert "which may not hide them" in reasons(RULE, function, Q, K, V, HIDDEN)[0]


def test_mask_added_to_filled_scores() -> None:
    def function(q: Tensor, k: Tensor, v: Tensor, hidden: Tensor) -> Tensor:
        scores = (q @ k.transpose(-2, -1)).masked_fill(hidden.roll(1, -1), -1e4)
        return (scores + torch.where(hidden, LOWEST, 0.0)).softmax(-1) @ v

    assert reasons(RULE, function, Q, K, V, HIDDEN)[0] == "a mask is added to scores that are filled already"


def test_filled_scores_that_are_turned_around() -> None:
    assert reasons(RULE, filled(-1e4, lambda s: s * -1.0), Q, K, V, HIDDEN)[0] == "the scores are scaled by -1.0"


CAPPED: dict[str, tuple[Change, float, float]] = {  # with the scale and the cap of the operator
    "as in Gemma 2": (lambda s: 5 * torch.tanh(s * 0.3 / 5), 0.3, 5.0),
    "without a scale": (lambda s: 5 * torch.tanh(s / 5), 1.0, 5.0),
    "without a factor": (lambda s: torch.tanh(s), 1.0, 1.0),
    "scaled twice": (lambda s: 2 * (3 * torch.tanh(s * 0.5)), 3.0, 6.0),
    "turned around": (lambda s: -4 * torch.tanh(s * 0.5), -2.0, -4.0),
}


@pytest.mark.parametrize(("scores", "scale", "cap"), CAPPED.values(), ids=CAPPED.keys())
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_capped_scores(scores: Change, scale: float, cap: float, dtype: torch.dtype) -> None:
    after = rewritten(RULE, attention(scores), *(t.to(dtype) for t in (Q, K, V)))
    named = arguments(find(after, CAPPED_FUSED))
    assert named["attn_mask"] is None
    assert (named["scale"], named["cap"]) == pytest.approx((scale, cap))
    assert not {"matmul", "softmax", "tanh"} & after.count().keys()


@pytest.mark.parametrize("kind", ["additive", "boolean", "hides a row"])
def test_capped_scores_with_a_mask(kind: str) -> None:
    def function(q: Tensor, k: Tensor, v: Tensor, hidden: Tensor) -> Tensor:
        scores = torch.tanh(q @ k.transpose(-2, -1) * 0.1) * 5
        if kind == "additive":
            return (scores + additive(hidden, LOWEST)).softmax(-1) @ v
        return scores.masked_fill(hidden, -math.inf).softmax(-1) @ v

    hidden = torch.ones_like(HIDDEN) if kind == "hides a row" else HIDDEN
    after = rewritten(RULE, function, Q, K, V, hidden)
    assert after.count()[CAPPED_FUSED] == 1
    assert interpret(after, [Q, K, V, hidden])[0].isnan().any() == (kind == "hides a row")


UNCAPPED: dict[str, tuple[Change, str]] = {
    "twice": (lambda s: torch.tanh(torch.tanh(s) * 5), "a soft cap has a cap inside of it"),
    "filled before": (
        lambda s: torch.tanh(s.masked_fill(torch.ones(5) > 0, -1e4)),
        "a soft cap has a fill inside of it",
    ),
    "biased before": (lambda s: torch.tanh(s + torch.ones(5)), "a soft cap has a mask inside of it"),
    "times zero": (lambda s: torch.tanh(s) * 0.0, "the scores are capped at 0.0"),
    "far beyond": (lambda s: torch.tanh(s) * 1e5, "the scores are capped at 100000.0"),
    "infinite": (lambda s: torch.tanh(s * math.inf) * 5, "the scores are capped at 5.0"),
}


@pytest.mark.parametrize(("scores", "reason"), UNCAPPED.values(), ids=UNCAPPED.keys())
def test_tanh_that_is_no_soft_cap(scores: Change, reason: str) -> None:
    assert reasons(RULE, attention(scores), Q, K, V)[0] == reason


@pytest.mark.parametrize("joined_before_the_softmax", [True, False])
@pytest.mark.parametrize("inner", [None, (6, 1, 5), (6, 4, 5), (1, 4, 5), (4, 5)], ids=str)
def test_heads_that_are_split_off_for_the_mask_only(
    joined_before_the_softmax: bool, inner: tuple[int, ...] | None
) -> None:
    """As BLOOM, OPT and BART write it: products of [B H, S, D], a mask of [B, 1, S, T]."""

    def function(q: Tensor, k: Tensor, v: Tensor, hidden: Tensor, bias: Tensor) -> Tensor:
        scores = q @ k.transpose(1, 2)
        scores = scores if inner is None else scores + bias
        scores = scores.reshape(2, 3, 4, 5).masked_fill(hidden, LOWEST)
        weights = (
            scores.reshape(6, 4, 5).softmax(-1) if joined_before_the_softmax else scores.softmax(-1).reshape(6, 4, 5)
        )
        return weights @ v

    flat = [t.reshape(6, -1, 8) for t in (Q, K, V)]
    after = rewritten(RULE, function, *flat, BLIND, bias=normal(*(inner or ())))
    assert count(after)[FUSED] == 1
    assert find(after, FUSED).meta["val"].shape == (2, 3, 4, 8)


def test_scores_that_are_reshaped_in_another_way() -> None:
    def function(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return (q @ k.transpose(1, 2)).reshape(2, 12, 5, 1).softmax(-1).reshape(6, 4, 5) @ v

    found = reasons(RULE, function, *(t.reshape(6, -1, 8) for t in (Q, K, V)))
    assert found[0].startswith("a mask or a reshape turns the scores from f32[6, 4, 5] into")


def test_mask_that_is_an_input() -> None:
    """It may hide all keys of a row by -inf: NaN in eager, 0 in the fused operator if nobody looks."""
    for hidden in (HIDDEN, BLIND):
        assert CORRECTED in count(rewritten(RULE, masked, Q, K, V, additive(hidden, -float("inf"))))


def test_mask_that_holds_minus_infinity() -> None:
    for value in (-float("inf"), float("nan")):
        assert CORRECTED in count(rewritten(RULE, masked, Q, K, V, mask=additive(BLIND, value)))


def test_mask_that_is_proven_to_leave_a_key() -> None:
    def function(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        at = torch.arange(4)
        window = (at[:, None] >= at) & (at[:, None] < at + 2)
        return (q @ k.transpose(-2, -1)).masked_fill(window.logical_not(), -float("inf")).softmax(-1) @ v

    assert CORRECTED not in count(rewritten(RULE, function, *[Q] * 3))


def test_safe_softmax_of_a_row_without_any_key() -> None:
    """ATen's own safe softmax gives 0, as the fused operator does."""

    def function(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        weights: Tensor = torch.ops.aten._safe_softmax(q @ k.transpose(-2, -1) + mask, -1)
        return weights @ v

    after = rewritten(RULE, function, Q, K, V, additive(BLIND, -float("inf")))
    assert count(after) == {FUSED: 1}


def test_bias_and_mask_that_add_up_to_minus_infinity() -> None:
    def function(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, mask: Tensor) -> Tensor:
        return (q @ k.transpose(-2, -1) + bias + mask).softmax(-1) @ v

    lowest = additive(BLIND, LOWEST)
    assert CORRECTED in count(rewritten(RULE, function, Q, K, V, bias=lowest.clone(), mask=lowest))
    assert count(rewritten(RULE, function, Q, K, V, bias=normal(4, 5), mask=lowest)) == {"add": 1, FUSED: 1}


def test_float16_scores_that_take_the_lowest_number_to_minus_infinity() -> None:
    half = [t.half() for t in (Q, K, V)]
    mask = additive(HIDDEN, torch.finfo(torch.float16).min, torch.float16)
    assert reasons(RULE, masked, *half, mask=mask)[0] == "the mask and a score may add up to -inf in torch.float16"


def test_mask_that_is_written_to() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mask", torch.zeros(4, 5))

        def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            result = masked(q, k, v, self.mask)
            self.mask.fill_(float("-inf"))
            return result

    graph = graph_of(Counting(), Q, K, V)
    assert [m.target for m in graph.mutations] == ["mask"]
    assert CORRECTED in apply(RULE, graph)[0].count()  # its values are not those of now


@pytest.mark.parametrize("shape", [(5,), ()], ids=str)
def test_mask_with_fewer_than_two_axes(shape: tuple[int, ...]) -> None:
    """The fused operator takes no fewer."""
    after = rewritten(RULE, masked, Q, K, V, mask=normal(*shape))
    assert count(after) == {FUSED: 1, "unsqueeze": 2 - len(shape)}


@pytest.mark.parametrize(("heads", "shape"), [(1, (2, 3, 4, 5)), (3, (2, 2, 3, 4, 5))], ids=str)
def test_mask_that_enlarges_the_scores(heads: int, shape: tuple[int, ...]) -> None:
    inputs = [t[:, :heads] for t in (Q, K, V)]
    found = reasons(RULE, masked, *inputs, mask=normal(*shape))[0]
    assert found.startswith(f"a mask or a reshape turns the scores from f32[2, {heads}, 4, 5]")


def test_mask_with_more_axes_and_a_softmax_over_the_queries() -> None:
    """Axis 2 of the four of the masked scores: the last but one."""
    function = lambda q, k, v, mask: (q @ k.transpose(-2, -1) + mask).softmax(2) @ v  # noqa: E731
    found = reasons(RULE, function, Q[0], K[0], V[0], mask=normal(2, 3, 4, 5))[0]
    assert found.startswith("a mask or a reshape turns the scores")


def test_the_graph_depends_on_the_values_of_the_mask() -> None:
    after = rewritten(RULE, masked, Q, K, V, mask=additive(HIDDEN, -1e4))
    assert after.constants.frozen_values() == {"mask"}
    assert rewritten(RULE, attention(), Q, K, V).constants.frozen_values() == frozenset()


@pytest.mark.parametrize("keys", [1, 5, 15, 16, 31, 32, 40])
@pytest.mark.parametrize("which", [0, 1])
def test_nan_without_a_mask(keys: int, which: int) -> None:
    """Torch's kernel loses it where there are few keys and no mask."""
    inputs = [normal(1, 2, 4, 8), normal(1, 2, keys, 8), normal(1, 2, keys, 8)]
    inputs[which][0, 0, 0] = float("nan")
    assert rewritten(RULE, attention(), *inputs).count().get("zeros", 0) == (keys < 32)


def test_it_is_declined_where_it_does_not_pay() -> None:
    """Few scores, and a row to be made NaN: more work after than before."""
    one_key = [normal(2, 3, 4, 64), normal(2, 3, 1, 64), normal(2, 3, 1, 64)]
    found = reasons(FuseAttention(), masked, *one_key, additive(HIDDEN[..., :1], -float("inf")))
    assert found[0].startswith("no gain: predicted -")
    large = [normal(2, 3, 256, 16)] * 3
    mask = additive(normal(256, 256) > 2, -float("inf"))
    assert count(rewritten(FuseAttention(), masked, *large, mask))[FUSED] == 1


def test_no_attention() -> None:
    assert apply(RULE, traced(lambda x: x.softmax(-1), Q))[1] == []
    assert apply(RULE, traced(lambda x, y: x @ y, normal(3, 4), normal(4, 3)))[1] == []


def test_a_bias_of_heads_on_scores_that_are_split() -> None:
    """[H, 1, T] added to [B, H, S, T] is one for all sequences; added to [B * H, S, T] it would be another."""

    def function(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        scores = torch.matmul(q, k.transpose(-2, -1)).reshape(3, 2, 4, 7) * 0.5 + bias
        return torch.matmul(scores.softmax(-1).reshape(6, 4, 7), v)

    after = rewritten(RULE, function, normal(6, 4, 8), normal(6, 7, 8), normal(6, 7, 8), normal(2, 1, 7))
    assert after.count()["scaled_dot_product_attention"] == 1


def test_no_keys_under_a_mask() -> None:
    def function(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        scores = torch.matmul(q, k.transpose(-2, -1)).masked_fill(hidden, -math.inf)
        return torch.matmul(scores.softmax(-1), v)

    keys, hidden = normal(2, 3, 0, 8), torch.ones(4, 0, dtype=torch.bool)
    after = rewritten(RULE, function, normal(2, 3, 4, 8), keys, keys, hidden)
    assert after.count() == {"logical_not": 1, "scaled_dot_product_attention": 1}
