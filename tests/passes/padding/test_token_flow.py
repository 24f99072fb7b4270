"""What becomes of values at padding: who sees them, and who does not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.padded import (
    HOLES,
    LEFT,
    LOWEST,
    RIGHT,
    B,
    E,
    Encoder,
    H,
    S,
    assert_close,
    ids,
    is_packed,
    keys,
    mean,
    optimized,
)

Tensor = torch.Tensor


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
    model = Encoder(keys, head, causal)
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
    model = Encoder(keys, head)
    fast = optimized(model, ids=ids(), mask=RIGHT)
    assert not is_packed(fast)
    assert_close(fast(ids(), RIGHT), model(ids(), RIGHT))
    (miss,) = fast.explain("remove-padding").near_misses
    assert "values at padding" in miss.reason


class CrossAttention(nn.Module):
    """Queries of one sequence, keys of another: the keys' layer is packed, the queries' stays."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder = Encoder(keys, lambda x, m: x)
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


class Deeper(nn.Module):
    """Shown queries over the results of an attention that nobody else sees."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words, self.both = nn.Embedding(50, E), nn.Linear(E, 2 * E)
        self.eval()

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        x = self.words(ids)
        heads = x.unflatten(-1, (H, -1)).transpose(1, 2)
        bias = torch.zeros(mask.shape).masked_fill(~mask, LOWEST)[:, None, None]
        inner = F.scaled_dot_product_attention(heads, heads, heads, bias).transpose(1, 2).flatten(2)
        k, v = (t.unflatten(-1, (H, -1)).transpose(1, 2) for t in self.both(inner).chunk(2, -1))
        return F.scaled_dot_product_attention(heads, k, v, bias).transpose(1, 2).flatten(2)


def test_an_attention_that_is_shown_over_one_that_is_not() -> None:
    model = Deeper()
    fast = optimized(model, ids=ids(), mask=RIGHT)
    assert fast.graph_after.count()["scaled_dot_product_attention"] == 1
    assert is_packed(fast)
    assert_close(fast(ids(), RIGHT), model(ids(), RIGHT))
    empty = RIGHT.index_fill(0, torch.tensor(2), False)
    assert_close(fast(ids(), empty), model(ids(), empty))
    assert not is_packed(fast)
