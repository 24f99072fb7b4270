"""The layers that torch itself brings."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import nn

from tests.zoo.architecture import Architecture, Inputs, normal, tokens


class SelfAttention(nn.Module):
    """nn.MultiheadAttention on one input."""

    def __init__(self, need_weights: bool) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True)
        self.need_weights = need_weights

    def forward(self, x: torch.Tensor, key_padding_mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Attention of x to itself, and its weights where they are wanted."""
        result: tuple[torch.Tensor, torch.Tensor | None] = self.attention(
            x, x, x, key_padding_mask=key_padding_mask, need_weights=self.need_weights
        )
        return result


def layers() -> Iterator[Architecture]:
    """All of them."""
    yield Architecture("nn.TransformerEncoder", _encoder, _key_padding)
    yield Architecture("nn.Transformer", partial(nn.Transformer, 32, 4, 2, 2, 64, batch_first=True), _both_sides)
    yield Architecture("nn.MultiheadAttention", partial(SelfAttention, False), _attend)
    yield Architecture("nn.MultiheadAttention-weights", partial(SelfAttention, True), _attend, fused=False)


def _encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


def _key_padding(batch: int, length: int) -> Inputs:
    hidden = tokens(batch, length)["attention_mask"] == 0
    return {"src": normal(batch, length, 32), "src_key_padding_mask": hidden}


def _both_sides(batch: int, length: int) -> Inputs:
    return {"src": normal(batch, length, 32), "tgt": normal(batch, max(2, length // 2), 32)}


def _attend(batch: int, length: int) -> Inputs:
    padding = _key_padding(batch, length)
    return {"x": padding["src"], "key_padding_mask": padding["src_key_padding_mask"]}
