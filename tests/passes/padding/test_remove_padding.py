"""Padding is removed where nobody sees it, and only there; the numbers stay those of the padded batch."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.export import Dim

import txgraph
from tests.padded import RIGHT, B, E, Encoder, H, S, ids, mean
from tests.zoo import OPTIONS, ZOO
from txgraph.passes.padding.remove_padding import RemovePadding

LEFT = RIGHT.flip(1)
HOLES = torch.tensor([[1, 0, 1, 0, 0, 1, 0, 0], [0, 1, 0, 0, 0, 0, 0, 0], [1] * 8, [0, 0, 1, 0, 1, 0, 0, 0]]).bool()
LOWEST = torch.finfo(torch.float32).min

Tensor = torch.Tensor
Model = txgraph.OptimizedModel


def optimized(model: nn.Module, padding: str = "exact", **inputs: Tensor) -> Model:
    return txgraph.optimize(model, kwargs=inputs, padding=padding, backend="reference", options=OPTIONS)


def is_packed(fast: Model) -> bool:
    names = fast.graph_after.count()
    return "txgraph::token_index" in names and "txgraph::ragged_attention" in names


def assert_close(result: Any, expected: Any, at: Tensor | None = None) -> None:
    for ours, theirs in zip(_leaves(result), _leaves(expected), strict=True):
        torch.testing.assert_close(*((ours, theirs) if at is None else (ours[at], theirs[at])), rtol=2e-5, atol=2e-5)


def _leaves(value: Any) -> list[Tensor]:
    return [leaf for leaf in torch.utils._pytree.tree_leaves(value) if isinstance(leaf, Tensor)]


MASKS: dict[str, tuple[Callable[[Tensor], Tensor], torch.dtype]] = {
    "boolean": (lambda m: m[:, None, None, :], torch.bool),
    "integer as boolean": (lambda m: m[:, None, None, :].bool(), torch.int64),
    "compared": (lambda m: m[:, None, None, :] > 0, torch.int64),
    "of queries, too": (lambda m: m[:, None, None, :].bool() & m[:, None, :, None].bool(), torch.int64),
    "expanded": (lambda m: m[:, None, None, :].expand(-1, 1, m.shape[1], -1) == 1, torch.int32),
    "one minus, times the lowest": (lambda m: (1.0 - m[:, None, None, :].float()) * LOWEST, torch.int64),
    "one minus, times -10000": (lambda m: (1.0 - m[:, None, None, :].float()) * -10000.0, torch.float32),
    "filled": (lambda m: torch.zeros(m.shape).masked_fill(m == 0, -math.inf)[:, None, None], torch.int64),
    "where": (lambda m: torch.where(m[:, None, None, :], 0.0, -math.inf), torch.bool),
    "a bias beside": (
        lambda m: torch.linspace(-1, 1, S * S).reshape(1, 1, S, S).masked_fill(~m[:, None, None, :], LOWEST),
        torch.bool,
    ),
    "a bias added": (
        lambda m: torch.linspace(-1, 1, H * S * S).reshape(1, H, S, S) + (1 - m[:, None, None, :].float()) * LOWEST,
        torch.int64,
    ),
}


@pytest.mark.parametrize(("mask", "dtype"), MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("valid", [RIGHT, LEFT, HOLES], ids=["right", "left", "holes"])
def test_every_form_of_a_mask(mask: Callable[[Tensor], Tensor], dtype: torch.dtype, valid: Tensor) -> None:
    model, inputs = Encoder(mask, mean), {"ids": ids(), "mask": valid.to(dtype)}
    fast = optimized(model, **inputs)
    assert is_packed(fast)
    assert_close(fast(**inputs), model(**inputs))
    other = {"ids": ids().flip(0), "mask": valid.flip(0).to(dtype)}
    assert_close(fast(**other), model(**other))
    assert len(fast.report.graphs) == 1


@pytest.mark.parametrize("values", ["key_padding_mask", "additive"])
def test_what_is_padding_is_true_or_a_low_bias(values: str) -> None:
    if values == "additive":
        model = Encoder(lambda m: m, lambda x, m: (x * (m[:, 0, 0, :, None] == 0)).sum(1))
        mask = torch.zeros(B, 1, 1, S).masked_fill(~RIGHT[:, None, None], LOWEST)
    else:
        model = Encoder(lambda m: ~m[:, None, None], lambda x, m: x.masked_fill(m[:, :, None], 0).sum(1))
        mask = ~RIGHT
    fast = optimized(model, ids=ids(), mask=mask)
    assert is_packed(fast)
    assert_close(fast(ids(), mask), model(ids(), mask))


HEADS: dict[str, tuple[Callable[..., Any], Tensor]] = {
    "first token": (lambda x, m: x[:, 0], RIGHT),
    "last token": (lambda x, m: x[:, -1], LEFT),
    "mean": (mean, RIGHT),
    "largest": (lambda x, m: x.masked_fill(~m[:, :, None], -1e9).amax(1), HOLES),
    "where": (lambda x, m: torch.where(m[:, :, None], x, 0.0).sum(1), LEFT),
}


@pytest.mark.parametrize(("head", "valid"), HEADS.values(), ids=HEADS)
@pytest.mark.parametrize("causal", [False, True], ids=["both ways", "causal"])
def test_heads_that_do_not_see_padding(head: Callable[..., Any], valid: Tensor, causal: bool) -> None:
    model = Encoder(MASKS["boolean"][0], head, causal)
    fast = optimized(model, ids=ids(), mask=valid)
    assert is_packed(fast)
    assert_close(fast(ids(), valid), model(ids(), valid))


SEEING: dict[str, Callable[..., Any]] = {
    "an output": lambda x, m: x,
    "a mean of all": lambda x, m: x.mean(1),
    "a token in the middle": lambda x, m: x[:, 2],
    "a product with something else": lambda x, m: (x * torch.arange(S).view(1, S, 1)).sum(1),
    "a mask that is not zero there": lambda x, m: (x * (1 + m[:, :, None].float())).sum(1),
    "a fill of tokens": lambda x, m: x.masked_fill(m[:, :, None], 0).sum(1),
    "a softmax over positions": lambda x, m: x.softmax(1)[:, 0],
}


@pytest.mark.parametrize("head", SEEING.values(), ids=SEEING)
def test_what_sees_padding_is_computed_for_all(head: Callable[..., Any]) -> None:
    model = Encoder(MASKS["boolean"][0], head)
    fast = optimized(model, ids=ids(), mask=RIGHT)
    assert not is_packed(fast)
    assert_close(fast(ids(), RIGHT), model(ids(), RIGHT))
    (miss,) = fast.explain("remove-padding").near_misses
    assert "values at padding" in miss.reason


FORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "an axis in front": lambda x: (x[None] + x)[0],
    "an axis in front of both": lambda x: (x[None, None] * torch.ones(3, 1, 1, 1, 1) + x).sum((0, 1)),
    "sequence first": lambda x: (x.transpose(0, 1) * torch.arange(S).view(S, 1, 1)).transpose(0, 1),
    "of each row": lambda x: x * torch.arange(B).view(B, 1, 1),
    "of each place and row": lambda x: x + torch.arange(B * S).view(B, S, 1),
    "of each feature": lambda x: x * torch.arange(E) + torch.arange(E).view(1, 1, E),
    "of each head and place": lambda x: (
        (x.unflatten(-1, (H, -1)).transpose(1, 2) * torch.arange(H * S).view(H, S, 1)).transpose(1, 2).flatten(2)
    ),
    "one number": lambda x: x * torch.tensor(2.0) + 1,
    "rows and places in one axis": lambda x: (x.flatten(0, 1) + torch.arange(E)).unflatten(0, (B, S)),
    "stacked and chosen": lambda x: torch.stack([x, -x, x * 2], 1)[:, torch.tensor([2, 0])].sum(1),
    "cut and joined": lambda x: torch.cat([x[..., 3:], x[..., :3]], -1),
    "softmax of features": lambda x: x.softmax(-1) + x.log_softmax(2) + x.mean(-1, keepdim=True),
    "in half and back": lambda x: x.to(torch.float64).exp().float(),
    "a matrix of weights": lambda x: x @ torch.eye(E).flip(0),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_every_form_of_a_value(form: Callable[[Tensor], Tensor]) -> None:
    model = Encoder(MASKS["boolean"][0], lambda x, m: mean(form(x), m))
    fast = optimized(model, ids=ids(), mask=HOLES)
    assert is_packed(fast)
    assert_close(fast(ids(), HOLES), model(ids(), HOLES))
    assert len([p for p in fast.report.graphs[0].passes if p.status == "rolled back"]) == 0


def test_only_outputs_may_be_zeros() -> None:
    """``padding="zeros"`` is a word about outputs: a mean over all positions still sees padding."""
    model = Encoder(MASKS["boolean"][0], lambda x, m: (x, x.mean(1)))
    fast = optimized(model, "zeros", ids=ids(), mask=RIGHT)
    assert not is_packed(fast)
    hidden, average = fast(ids(), RIGHT)
    expected, of_all = model(ids(), RIGHT)
    assert_close(average, of_all)
    assert_close(hidden, expected, RIGHT)
    assert not hidden[~RIGHT].any()


def test_zeros_at_padding() -> None:
    model = Encoder(MASKS["boolean"][0], lambda x, m: (x, x[:, 0], {"again": x, "moved": x.transpose(1, 2)}))
    fast = optimized(model, "zeros", ids=ids(), mask=RIGHT)
    assert is_packed(fast)
    hidden, first, more = fast(ids(), RIGHT)
    expected, expected_first, _ = model(ids(), RIGHT)
    assert_close(hidden, expected, RIGHT)
    assert_close(first, expected_first)
    assert_close(more["moved"].transpose(1, 2), hidden)
    for value in (hidden, more["again"], more["moved"].transpose(1, 2)):
        assert not value[~RIGHT].any()
    full = fast(ids(), torch.ones_like(RIGHT))
    assert_close(full[0], model(ids(), torch.ones_like(RIGHT))[0])


def test_it_says_what_zeros_would_gain() -> None:
    model = Encoder(MASKS["boolean"][0], lambda x, m: x)
    (note,) = optimized(model, ids=ids(), mask=RIGHT).report.notes
    assert note.startswith('output 0 shows values at padding, and so they are computed. With padding="zeros"')
    assert optimized(model, ids=ids(), mask=torch.ones_like(RIGHT)).report.notes == []
    without = Encoder(lambda m: torch.ones(S, S, dtype=torch.bool), lambda x, m: x)
    (note,) = optimized(without, "zeros", ids=ids(), mask=RIGHT).report.notes
    assert note.startswith('padding="zeros" changes nothing: no output has')


class TestGuards:
    """Calls for which packing is wrong, or does not pay, get another graph."""

    def fast(self, head: Callable[..., Any] = mean, **inputs: Tensor) -> tuple[Encoder, Model]:
        model = Encoder(MASKS["integer as boolean"][0], head)
        fast = optimized(model, **(inputs or {"ids": ids(), "mask": RIGHT.long()}))
        assert is_packed(fast)
        return model, fast

    @pytest.mark.parametrize(
        ("mask", "why"),
        [
            (torch.ones(B, S, dtype=torch.long), "32 of the 32 positions are tokens"),
            (RIGHT.long() * 2, "values that are neither 0 nor 1"),
            (torch.zeros(B, S, dtype=torch.long), "0 of the 32 positions are tokens"),
        ],
        ids=["full", "twos", "empty"],
    )
    def test_another_graph(self, mask: Tensor, why: str) -> None:
        model, fast = self.fast()
        if why.startswith("0"):
            model.head = fast.head = lambda x, m: (x * m[:, :, None]).sum(1)
        assert_close(fast(ids(), mask), model(ids(), mask))
        assert not is_packed(fast)
        assert why in fast.explain("remove-padding").near_misses[0].reason
        fast(ids(), RIGHT.long())
        fast(ids(), mask)
        assert len(fast.report.graphs) == 2, "both graphs serve from now on"

    def test_a_full_mask_first(self) -> None:
        model = Encoder(MASKS["boolean"][0], mean)
        fast = optimized(model, ids=ids(), mask=torch.ones_like(RIGHT))
        assert not is_packed(fast)
        assert_close(fast(ids(), RIGHT), model(ids(), RIGHT))
        assert is_packed(fast)

    def test_a_first_token_that_is_padding(self) -> None:
        model, fast = self.fast(lambda x, m: x[:, 0])
        assert_close(fast(ids(), LEFT.long()), model(ids(), LEFT.long()))
        assert not is_packed(fast)
        assert "the first position of a row is padding" in fast.explain("remove-padding").near_misses[0].reason

    def test_an_empty_row(self) -> None:
        model, fast = self.fast()
        mask = RIGHT.long().index_fill(0, torch.tensor(1), 0)
        assert_close(fast(ids(), mask), model(ids(), mask))
        assert len(fast.report.graphs) == 1

    def test_a_batch_of_one(self) -> None:
        model = Encoder(MASKS["boolean"][0], mean)
        fast = optimized(model, ids=ids(1), mask=RIGHT[1:2])
        assert not is_packed(fast)
        assert_close(fast(ids(1), RIGHT[1:2]), model(ids(1), RIGHT[1:2]))

    @pytest.mark.parametrize("shape", [(0, S), (3, 0)], ids=["no rows", "no positions"])
    def test_nothing_at_all(self, shape: tuple[int, int]) -> None:
        model = Encoder(MASKS["boolean"][0], lambda x, m: (x * m[:, :, None]).sum(1))
        inputs = {"ids": ids(*shape), "mask": torch.zeros(shape, dtype=torch.bool)}
        assert_close(optimized(model, **inputs)(**inputs), model(**inputs))

    def test_a_mask_that_depends_on_the_query(self) -> None:
        model = Encoder(lambda m: m[:, None], lambda x, m: x[:, 0])
        mask = RIGHT[:, None, :] | torch.eye(S, dtype=torch.bool)
        fast = optimized(model, ids=ids(), mask=mask)
        assert not is_packed(fast)
        assert_close(fast(ids(), mask), model(ids(), mask))

    def test_density(self) -> None:
        mask = torch.ones(B, S, dtype=torch.bool)
        mask[0, -1] = False
        model = Encoder(MASKS["boolean"][0], mean)
        assert not is_packed(optimized(model, ids=ids(), mask=mask))
        packing = txgraph.default_pipeline().without("remove-padding").append(RemovePadding(density=1.0))
        fast = txgraph.optimize(model, (ids(), mask), passes=packing, backend="reference", options=OPTIONS)
        assert is_packed(fast)
        assert_close(fast(ids(), mask), model(ids(), mask))


def test_sizes_that_vary() -> None:
    model = Encoder(MASKS["boolean"][0], mean)
    axes = {name: {0: Dim("batch", min=2, max=64), 1: Dim("length", min=2, max=S)} for name in ("ids", "mask")}
    fast = txgraph.optimize(
        model, (ids(), RIGHT), dynamic_shapes=axes, backend="reference", options=OPTIONS, verify="rewrites"
    )
    assert is_packed(fast)
    for batch, length in ((2, 3), (7, 8), (3, 5)):
        mask = torch.arange(length) < torch.tensor([1, 2, 3, 1, 2, 3, 1])[:batch, None]
        assert_close(fast(ids(batch, length), mask), model(ids(batch, length), mask))
    assert len(fast.report.graphs) == 1


class CrossAttention(nn.Module):
    """Queries of one sequence, keys of another: the keys' layer is packed, the queries' stays."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder = Encoder(MASKS["boolean"][0], lambda x, m: x)
        self.words, self.query, self.both = nn.Embedding(50, E), nn.Linear(E, E), nn.Linear(E, 2 * E)
        self.eval()

    def forward(self, ids: Tensor, mask: Tensor, target: Tensor) -> Tensor:
        hidden = self.encoder(ids, mask)
        q = self.query(self.words(target)).unflatten(-1, (H, -1)).transpose(1, 2)
        k, v = (t.unflatten(-1, (H, -1)).transpose(1, 2) for t in self.both(hidden).chunk(2, -1))
        bias = torch.zeros(mask.shape).masked_fill(~mask, LOWEST)[:, None, None]
        return F.scaled_dot_product_attention(q, k, v, bias).transpose(1, 2).flatten(2)


@pytest.mark.parametrize("length", [3, S], ids=["shorter", "as long"])
def test_queries_of_another_sequence(length: int) -> None:
    model, inputs = CrossAttention(), {"ids": ids(), "mask": RIGHT, "target": ids(B, length)}
    for padding in ("exact", "zeros"):
        fast = optimized(model, padding, **inputs)
        assert fast.graph_after.count()["scaled_dot_product_attention"] == 1
        assert is_packed(fast)
        assert_close(fast(**inputs), model(**inputs))
        # Over a row without keys a query takes the mean of what is hidden: the padded values are needed there.
        empty = {**inputs, "mask": RIGHT.index_fill(0, torch.tensor(2), False)}
        assert_close(fast(**empty), model(**empty))
        assert not is_packed(fast)


PACKED = {  # attentions that become ragged, of those that the model has
    "bert-sdpa": 2,
    "roberta-eager": 2,
    "distilbert-sdpa": 2,
    "albert-sdpa": 2,
    "electra-eager": 1,
    "mpnet-eager": 2,
    "gpt2-sdpa": 2,
    "bloom-eager": 1,
    "gpt-j-eager": 1,
    "falcon-sdpa": 1,
    "llama-sdpa": 2,
    "mistral-sdpa": 1,
    "t5-sdpa": 2,
    "bart-eager": 2,
    "nn.TransformerEncoder": 2,
    "nn.MultiheadAttention": 1,
}


@pytest.mark.parametrize(("name", "count"), PACKED.items(), ids=PACKED)
def test_real_architectures(name: str, count: int) -> None:
    """With zeros at padding, against eager where there are tokens."""
    model, inputs = ZOO[name].model(), ZOO[name].inputs(3, 12)
    (key,) = [key for key in inputs if "mask" in key]
    valid = torch.arange(12) < torch.tensor([12, 5, 3])[:, None]
    inputs[key] = ~valid if inputs[key].dtype is torch.bool else valid.to(inputs[key].dtype)
    fast = optimized(model, "zeros", **inputs)
    assert fast.graph_after.count()["txgraph::ragged_attention"] == count
    with torch.no_grad():
        results, expected = _leaves(fast(**inputs)), _leaves(model(**inputs))
    for zeroed in fast.graph_after.zeroed:
        at = zeroed.output - len(fast.graph_after.mutations)
        leaves = [n for n, value in enumerate(fast.graph_after.outputs) if hasattr(value, "meta")]
        place = leaves.index(at)
        axes = zeroed.axes
        ours, theirs = (t[place].movedim(axes, (0, 1)) for t in (results, expected))
        assert_close(ours, theirs, valid)
        assert not ours[~valid].any()
    assert fast.graph_after.zeroed


def test_left_padded_prompts_with_positions() -> None:
    """As ``generate`` prepares them: positions count tokens."""
    model, inputs = ZOO["gpt2-sdpa"].model(), ZOO["gpt2-sdpa"].inputs(3, 12)
    mask = (torch.arange(12) >= torch.tensor([0, 7, 9])[:, None]).long()
    inputs |= {"attention_mask": mask, "position_ids": (mask.cumsum(1) - 1).clamp(min=0)}
    fast = optimized(model, "zeros", **inputs)
    assert is_packed(fast)
    with torch.no_grad():
        assert_close(fast(**inputs)[0], model(**inputs)[0], mask.bool())


@pytest.mark.parametrize("name", ["bert-sdpa", "nn.TransformerEncoder", "t5-sdpa"])
def test_compiled(name: str) -> None:
    """Inductor compiles for any number of tokens."""
    model, inputs = ZOO[name].model(), ZOO[name].inputs(3, 12)
    (key,) = [key for key in inputs if "mask" in key]
    fast = None
    for lengths in ([12, 5, 3], [1, 2, 12], [7, 7, 7], [1, 1, 1]):
        valid = torch.arange(12) < torch.tensor(lengths)[:, None]
        inputs[key] = ~valid if inputs[key].dtype is torch.bool else valid.to(inputs[key].dtype)
        fast = fast or txgraph.optimize(model, kwargs=inputs, padding="zeros", backend="inductor", options=OPTIONS)
        with torch.no_grad():
            ours, theirs = (_leaves(m(**inputs)) for m in (fast, model))
        at = -1 if name == "t5-sdpa" else 0  # what the encoder gives
        assert_close(ours[at], theirs[at], valid)
        assert not ours[at][~valid].any()
    assert len(fast.report.graphs) == 1
    assert is_packed(fast)


def test_a_pipeline_without_it() -> None:
    model = Encoder(MASKS["boolean"][0], mean)
    with pytest.raises(ValueError, match="padding=\"zeros\" is for the pass 'remove-padding'"):
        txgraph.optimize(model, passes=txgraph.default_pipeline().without("remove-padding"), padding="zeros")
