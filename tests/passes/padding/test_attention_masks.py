"""Which forms of a mask are known to hide padding, and what they do beside."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from tests.padded import (
    HOLES,
    LEFT,
    LOWEST,
    RIGHT,
    B,
    Encoder,
    H,
    S,
    assert_close,
    ids,
    is_packed,
    mean,
    optimized,
)

Tensor = torch.Tensor


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
