"""Decomposed attention becomes one operator, and nothing that only looks like it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import pytest
import torch
from torch import nn
from torch.export import Dim

from tests.helpers import FLOATS, assert_numbers, normal, reasons, rewritten
from tests.small import apply, find, graph_of, module, traced
from txgraph.ir import DTYPE_NAMES, Graph, arguments, interpret
from txgraph.passes.fuse.fuse_attention import FuseAttention

RULE = FuseAttention()
FUSED = "scaled_dot_product_attention"
Q, K, V = normal(2, 3, 4, 8), normal(2, 3, 5, 8), normal(2, 3, 5, 8)
HIDDEN = torch.arange(40).reshape(2, 1, 4, 5) % 3 == 0  # no row is hidden as a whole
LOWEST = torch.finfo(torch.float32).min

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
    """The mask's name and the scale of the only attention, when nothing else is left."""
    named = arguments(find(graph, FUSED))
    assert named["dropout_p"] == 0
    assert named["is_causal"] is named["enable_gqa"] is False
    return named["attn_mask"], named["scale"]


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
    assert after.count() == {FUSED: 1}
    assert options(after) == (None, scale)


@pytest.mark.parametrize("axes", [(-2, -1), (-1, -2), (2, 3), (3, -2)])
def test_ways_to_name_the_axes_of_the_key(axes: tuple[int, int]) -> None:
    after = rewritten(RULE, lambda q, k, v: (q @ k.transpose(*axes)).softmax(3) @ v, Q, K, V)
    assert after.count() == {FUSED: 1}


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
    assert after.count() == {"add": 1, FUSED: 1}
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
        assert after.count() == {FUSED: 1}
        assert options(after) == (find(after, "get_attr"), 0.3)


MASK_SHAPES = [(2, 3, 4, 5), (2, 1, 4, 5), (2, 1, 1, 5), (1, 3, 4, 5), (1, 1, 1, 1), (3, 4, 5), (4, 5), (1, 5), (4, 1)]


@pytest.mark.parametrize("shape", MASK_SHAPES, ids=str)
def test_masks_that_broadcast_into_the_scores(shape: tuple[int, ...]) -> None:
    after = rewritten(RULE, masked, Q, K, V, mask=normal(*shape))
    assert after.count() == {FUSED: 1}


def test_a_mask_made_from_an_input() -> None:
    def function(q: Tensor, k: Tensor, v: Tensor, hidden: Tensor) -> Tensor:
        mask = torch.where(hidden, LOWEST, 0.0)
        return (q @ k.transpose(-2, -1) + mask).softmax(-1) @ v

    assert rewritten(RULE, function, Q, K, V, HIDDEN).count() == {FUSED: 1, "where": 1}


def test_a_mask_of_truths_turned_into_numbers() -> None:
    def function(q: Tensor, k: Tensor, v: Tensor, kept: Tensor) -> Tensor:
        mask = (1.0 - cast(kept, torch.float32)) * LOWEST
        return (q @ k.transpose(-2, -1) + mask).softmax(-1) @ v

    assert rewritten(RULE, function, Q, K, V, ~HIDDEN).count()[FUSED] == 1
    assert reasons(RULE, function, Q, K, V, (~HIDDEN).long())[0] == NO_KEY  # of a 2 it would make -inf


def test_casts_between_softmax_and_product_that_change_nothing() -> None:
    def function(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        weights = torch.softmax(q @ k.transpose(-2, -1), -1, dtype=torch.float32)
        return cast(weights, torch.float32) @ v

    assert rewritten(RULE, function, Q, K, V).count() == {FUSED: 1}


SHAPES: list[tuple[tuple[int, ...], ...]] = [
    ((1, 1, 1, 1), (1, 1, 1, 1), (1, 1, 1, 1)),
    ((2, 2, 2, 2), (2, 2, 2, 2), (2, 2, 2, 2)),
    ((1, 3, 13, 7), (1, 3, 17, 7), (1, 3, 17, 7)),
    ((3, 4, 8), (3, 5, 8), (3, 5, 8)),
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
    assert rewritten(RULE, attention(), *(normal(*s) for s in shapes)).count() == {FUSED: 1}


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("with_mask", [False, True])
def test_dtypes(dtype: torch.dtype, with_mask: bool) -> None:
    inputs = [t.to(dtype) for t in (Q, K, V)]
    if with_mask:
        after = rewritten(RULE, masked, *inputs, mask=additive(HIDDEN, -1e4, dtype))
    else:
        after = rewritten(RULE, attention(), *inputs)
    assert after.count() == {FUSED: 1}


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
    assert rewritten(RULE, attention(), *inputs).count() == {FUSED: 1}
    mask = additive(normal(4, 32) > 0.5, -1e4, dtype)
    assert rewritten(RULE, masked, *inputs, mask=mask).count() == {FUSED: 1}


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
    assert after.count() == {FUSED: 1}
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
    assert after.count() == {FUSED: 1}
    for b, s, t in ((2, 4, 5), (3, 7, 2), (5, 2, 11)):
        assert_numbers(after, model.forward, normal(b, 3, s, 8), normal(b, 3, t, 8), normal(b, 3, t, 8))


def test_several_attentions() -> None:
    def function(x: Tensor) -> Tensor:
        for _ in range(3):
            x = (x @ x.transpose(-2, -1) * 0.1).softmax(-1) @ x
        return x

    assert rewritten(RULE, function, normal(2, 2, 5, 8)).count() == {FUSED: 3}


def test_what_it_records() -> None:
    graph = graph_of(module(lambda q, k, v: (q @ k.transpose(-2, -1) * 0.5).softmax(-1) @ v), Q, K, V)
    after, (rewrite,) = apply(RULE, graph)
    assert rewrite.rule == "fuse-attention"
    assert len(rewrite.removed) == 5
    assert rewrite.made == (find(after, FUSED).name,)
    assert find(after, FUSED).meta["txgraph_passes"] == ("fuse-attention",)


# What must not be fused, and why.


def leaking(which: str) -> Callable[..., tuple[Tensor, Tensor]]:
    def function(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        values = {"transposed": k.transpose(-2, -1)}
        values["product"] = q @ values["transposed"]
        values["scaled"] = values["product"] * 0.5
        values["weights"] = values["scaled"].softmax(-1)
        return values["weights"] @ v, values[which] + 1

    return function


@pytest.mark.parametrize("which", ["transposed", "product", "scaled", "weights"])
def test_inner_value_used_elsewhere(which: str) -> None:
    (reason, *_) = reasons(RULE, leaking(which), Q, K, V)
    name = {"transposed": "transpose", "product": "matmul", "scaled": "mul", "weights": "softmax"}[which]
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


def test_key_transposed_in_other_axes() -> None:
    found = reasons(RULE, lambda q, k, v: (q @ k.transpose(1, 2)).softmax(-1) @ v, *[normal(2, 4, 4, 4)] * 3)
    assert found[0] == "the key is not transposed in its last two axes"


def test_key_not_transposed() -> None:
    found = reasons(RULE, lambda q, k, v: (q @ k).softmax(-1) @ v, *[normal(2, 4, 4, 4)] * 3)
    assert found[0] == "expected transpose, found %k = placeholder"


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
    assert found[0].startswith("expected add, found %_to_copy")


def test_weights_cast_to_another_dtype() -> None:
    def function(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return cast((q @ k.transpose(-2, -1)).softmax(-1), torch.float64) @ v

    found = reasons(RULE, function, Q, K, V.double())
    assert found[0] == "the softmax is computed in f32, query, key and value are f32, f32 and f64"


def test_scale_that_is_a_tensor() -> None:
    found = reasons(
        RULE, lambda q, k, v, s: (q @ k.transpose(-2, -1) * s).softmax(-1) @ v, Q, K, V, s=torch.tensor(0.5)
    )
    assert found[0].startswith("expected a number for 'scale', found %s")


@pytest.mark.parametrize("scores", [lambda s: s / 0, lambda s: s * float("inf"), lambda s: s * float("nan")])
def test_scale_that_is_not_finite(scores: Change) -> None:
    assert reasons(RULE, attention(scores), Q, K, V)[0] == "the scale is not finite"


def test_division_that_rounds() -> None:
    found = reasons(RULE, attention(lambda s: torch.div(s, 2, rounding_mode="floor")), Q, K, V)
    assert found[0] == "div has rounding_mode='floor'"


def test_mask_added_with_a_factor() -> None:
    def function(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        return torch.add(q @ k.transpose(-2, -1), mask, alpha=2).softmax(-1) @ v

    assert reasons(RULE, function, Q, K, V, mask=normal(4, 5))[0] == "add has alpha=2"


def test_mask_subtracted() -> None:
    found = reasons(RULE, lambda q, k, v, m: (q @ k.transpose(-2, -1) - m).softmax(-1) @ v, Q, K, V, m=normal(4, 5))
    assert found[0] == "expected add, found %sub = sub"


def test_number_added_to_the_scores() -> None:
    assert reasons(RULE, attention(lambda s: s + 1.5), Q, K, V)[0] == "the mask is 1.5, expected torch.float32"


def test_three_terms_added() -> None:
    def function(q: Tensor, k: Tensor, v: Tensor, m: Tensor) -> Tensor:
        return (q @ k.transpose(-2, -1) + m + m * 2 + m * 3).softmax(-1) @ v

    assert reasons(RULE, function, Q, K, V, m=normal(4, 5))[0] == "expected matmul, found %m = get_attr"


@pytest.mark.parametrize("dtype", [torch.float64, torch.bool, torch.int64])
def test_mask_of_another_dtype(dtype: torch.dtype) -> None:
    wide = [t.double() for t in (Q, K, V)] if dtype is torch.float64 else [Q, K, V]
    mask = torch.ones(4, 5, dtype=torch.float32 if dtype is torch.float64 else dtype)
    expected = "torch.float64" if dtype is torch.float64 else "torch.float32"
    found = reasons(RULE, masked, *wide, mask=mask)[0]
    assert found.startswith("the mask is ")
    assert found.endswith(f"expected {expected}")


def test_boolean_mask_filled_in() -> None:
    def function(q: Tensor, k: Tensor, v: Tensor, hidden: Tensor) -> Tensor:
        return (q @ k.transpose(-2, -1)).masked_fill(hidden, LOWEST).softmax(-1) @ v

    assert "found %masked_fill" in reasons(RULE, function, Q, K, V, HIDDEN)[0]


NO_KEY = "the mask may make -inf: a row without any key is NaN in eager and 0 when fused"


def test_mask_that_is_an_input() -> None:
    assert reasons(RULE, masked, Q, K, V, additive(HIDDEN, 0.0))[0] == NO_KEY


def test_mask_that_holds_minus_infinity() -> None:
    assert reasons(RULE, masked, Q, K, V, mask=additive(HIDDEN, float("-inf")))[0] == NO_KEY
    assert reasons(RULE, masked, Q, K, V, mask=additive(HIDDEN, float("nan")))[0] == NO_KEY


def test_bias_and_mask_that_add_up_to_minus_infinity() -> None:
    def function(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, mask: Tensor) -> Tensor:
        return (q @ k.transpose(-2, -1) + bias + mask).softmax(-1) @ v

    lowest = additive(HIDDEN, LOWEST)
    assert reasons(RULE, function, Q, K, V, bias=lowest.clone(), mask=lowest)[0] == NO_KEY
    assert rewritten(RULE, function, Q, K, V, bias=normal(4, 5), mask=lowest).count() == {"add": 1, FUSED: 1}


def test_float16_scores_that_take_the_lowest_number_to_minus_infinity() -> None:
    half = [t.half() for t in (Q, K, V)]
    mask = additive(HIDDEN, torch.finfo(torch.float16).min, torch.float16)
    assert reasons(RULE, masked, *half, mask=mask)[0] == NO_KEY


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
    assert apply(RULE, graph)[1] == []


@pytest.mark.parametrize("shape", [(5,), ()], ids=str)
def test_mask_with_fewer_than_two_axes(shape: tuple[int, ...]) -> None:
    found = reasons(RULE, masked, Q, K, V, mask=normal(*shape))[0]
    assert found == "the mask has fewer axes than the 2 that the fused operator takes"


@pytest.mark.parametrize(("heads", "shape"), [(1, (2, 3, 4, 5)), (3, (2, 2, 3, 4, 5))], ids=str)
def test_mask_that_enlarges_the_scores(heads: int, shape: tuple[int, ...]) -> None:
    inputs = [t[:, :heads] for t in (Q, K, V)]
    found = reasons(RULE, masked, *inputs, mask=normal(*shape))[0]
    assert found.startswith(f"the mask enlarges the scores from f32[2, {heads}, 4, 5]")


def test_mask_with_more_axes_and_a_softmax_over_the_queries() -> None:
    """Axis 2 of the four of the masked scores: the last but one."""
    function = lambda q, k, v, mask: (q @ k.transpose(-2, -1) + mask).softmax(2) @ v  # noqa: E731
    found = reasons(RULE, function, Q[0], K[0], V[0], mask=normal(2, 3, 4, 5))[0]
    assert found.startswith("the mask enlarges the scores")


def test_the_graph_depends_on_the_values_of_the_mask() -> None:
    after = rewritten(RULE, masked, Q, K, V, mask=additive(HIDDEN, -1e4))
    assert after.constants.frozen_values() == {"mask"}
    assert rewritten(RULE, attention(), Q, K, V).constants.frozen_values() == frozenset()


def test_no_attention() -> None:
    assert apply(RULE, traced(lambda x: x.softmax(-1), Q))[1] == []
    assert apply(RULE, traced(lambda x, y: x @ y, normal(3, 4), normal(4, 3)))[1] == []
