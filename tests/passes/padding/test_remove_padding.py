"""Padding is removed for the calls for which it pays; the numbers stay those of the padded batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.export import Dim

import txgraph
from tests.padded import (
    LEFT,
    RIGHT,
    B,
    Encoder,
    Model,
    S,
    assert_close,
    ids,
    is_packed,
    keys,
    leaves,
    mean,
    optimized,
)
from tests.zoo import OPTIONS, ZOO
from txgraph.passes.padding.remove_padding import RemovePadding

Tensor = torch.Tensor


def test_it_says_what_zeros_would_gain() -> None:
    model = Encoder(keys, lambda x, m: x)
    (note,) = optimized(model, ids=ids(), mask=RIGHT).report.notes
    assert note.startswith('output 0 shows values at padding, and so they are computed. With padding="zeros"')
    assert optimized(model, ids=ids(), mask=torch.ones_like(RIGHT)).report.notes == []
    without = Encoder(lambda m: torch.ones(S, S, dtype=torch.bool), lambda x, m: x)
    (note,) = optimized(without, "zeros", ids=ids(), mask=RIGHT).report.notes
    assert note.startswith('padding="zeros" changes nothing: no output has')


class TestGuards:
    """Calls for which packing is wrong, or does not pay, get another graph."""

    def fast(self, head: Callable[..., Any] = mean, **inputs: Tensor) -> tuple[Encoder, Model]:
        model = Encoder(lambda m: m[:, None, None].bool(), head)
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
        model = Encoder(keys, mean)
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
        model = Encoder(keys, mean)
        fast = optimized(model, ids=ids(1), mask=RIGHT[1:2])
        assert not is_packed(fast)
        assert_close(fast(ids(1), RIGHT[1:2]), model(ids(1), RIGHT[1:2]))

    @pytest.mark.parametrize("shape", [(0, S), (3, 0)], ids=["no rows", "no positions"])
    def test_nothing_at_all(self, shape: tuple[int, int]) -> None:
        model = Encoder(keys, lambda x, m: (x * m[:, :, None]).sum(1))
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
        model = Encoder(keys, mean)
        assert not is_packed(optimized(model, ids=ids(), mask=mask))
        packing = txgraph.default_pipeline().without("remove-padding").append(RemovePadding(density=1.0))
        fast = txgraph.optimize(model, (ids(), mask), passes=packing, backend="reference", options=OPTIONS)
        assert is_packed(fast)
        assert_close(fast(ids(), mask), model(ids(), mask))


def test_sizes_that_vary() -> None:
    model = Encoder(keys, mean)
    axes = {name: {0: Dim("batch", min=2, max=64), 1: Dim("length", min=2, max=S)} for name in ("ids", "mask")}
    fast = txgraph.optimize(
        model, (ids(), RIGHT), dynamic_shapes=axes, backend="reference", options=OPTIONS, verify="rewrites"
    )
    assert is_packed(fast)
    for batch, length in ((2, 3), (7, 8), (3, 5)):
        mask = torch.arange(length) < torch.tensor([1, 2, 3, 1, 2, 3, 1])[:batch, None]
        assert_close(fast(ids(batch, length), mask), model(ids(batch, length), mask))
    assert len(fast.report.graphs) == 1


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
        results, expected = leaves(fast(**inputs)), leaves(model(**inputs))
    for zeroed in fast.graph_after.zeroed:
        at = zeroed.output - len(fast.graph_after.mutations)
        tensors = [n for n, value in enumerate(fast.graph_after.outputs) if hasattr(value, "meta")]
        place = tensors.index(at)
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
            ours, theirs = (leaves(m(**inputs)) for m in (fast, model))
        at = -1 if name == "t5-sdpa" else 0  # what the encoder gives
        assert_close(ours[at], theirs[at], valid)
        assert not ours[at][~valid].any()
    assert len(fast.report.graphs) == 1
    assert is_packed(fast)


def test_a_pipeline_without_it() -> None:
    model = Encoder(keys, mean)
    with pytest.raises(ValueError, match="padding=\"zeros\" is for the pass 'remove-padding'"):
        txgraph.optimize(model, passes=txgraph.default_pipeline().without("remove-padding"), padding="zeros")
