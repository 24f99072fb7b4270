"""Operators that treat every token by itself, on packed tokens."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from tests.padded import (
    HOLES,
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
    model = Encoder(keys, lambda x, m: mean(form(x), m))
    fast = optimized(model, ids=ids(), mask=HOLES)
    assert is_packed(fast)
    assert_close(fast(ids(), HOLES), model(ids(), HOLES))
    assert len([p for p in fast.report.graphs[0].passes if p.status == "rolled back"]) == 0
