"""A padded batch, and a small encoder that takes its mask in any form and does anything with its tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils import _pytree as pytree

import txgraph
from tests.zoo import OPTIONS

B, S, E, H = 4, 8, 16, 4
LENGTHS = torch.tensor([8, 3, 5, 1])
RIGHT = torch.arange(S) < LENGTHS[:, None]
LEFT = RIGHT.flip(1)
HOLES = torch.tensor([[1, 0, 1, 0, 0, 1, 0, 0], [0, 1, 0, 0, 0, 0, 0, 0], [1] * 8, [0, 0, 1, 0, 1, 0, 0, 0]]).bool()
LOWEST = torch.finfo(torch.float32).min

Tensor = torch.Tensor
Model = txgraph.OptimizedModel


class Encoder(nn.Module):
    """A layer by hand with a mask in any form, and what becomes of its tokens in any form."""

    def __init__(self, mask: Callable[[Tensor], Tensor], head: Callable[..., Any], causal: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words, self.places = nn.Embedding(50, E), nn.Embedding(S, E)
        self.qkv, self.out, self.up = (nn.Linear(E, n) for n in (3 * E, E, 2 * E))
        self.down, self.norm = nn.Linear(2 * E, E), nn.LayerNorm(E)
        self.mask, self.head, self.causal = mask, head, causal
        self.eval()

    def forward(self, ids: Tensor, mask: Tensor) -> Any:
        x = self.words(ids) + self.places(torch.arange(ids.shape[1]))
        q, k, v = (t.unflatten(-1, (H, -1)).transpose(1, 2) for t in self.qkv(x).chunk(3, -1))
        visible = self.mask(mask)
        if self.causal:
            visible = visible & torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool).tril()
        x = self.norm(x + self.out(F.scaled_dot_product_attention(q, k, v, visible).transpose(1, 2).flatten(2)))
        return self.head(x + self.down(F.gelu(self.up(x))), mask)


def ids(batch: int = B, length: int = S) -> Tensor:
    """Token numbers ``[B, S]``."""
    return torch.randint(0, 50, (batch, length), generator=torch.Generator().manual_seed(batch * 100 + length))


def mean(x: Tensor, mask: Tensor) -> Tensor:
    """The mean over tokens."""
    weight = mask[:, :, None].to(x.dtype)
    return (x * weight).sum(1) / weight.sum(1).clamp(min=1e-9)


def keys(mask: Tensor) -> Tensor:
    """Hides the keys that a boolean mask ``[B, S]`` calls padding."""
    return mask[:, None, None]


def optimized(model: nn.Module, padding: str = "exact", **inputs: Tensor) -> Model:
    """The model on the reference backend, for one call."""
    return txgraph.optimize(model, kwargs=inputs, padding=padding, backend="reference", options=OPTIONS)


def is_packed(fast: Model) -> bool:
    """Whether the latest graph works on packed tokens."""
    names = fast.graph_after.count()
    return "txgraph::token_index" in names and "txgraph::ragged_attention" in names


def assert_close(result: Any, expected: Any, at: Tensor | None = None) -> None:
    """All tensors are equal up to rounding, or those at the given positions."""
    for ours, theirs in zip(leaves(result), leaves(expected), strict=True):
        torch.testing.assert_close(*((ours, theirs) if at is None else (ours[at], theirs[at])), rtol=2e-5, atol=2e-5)


def leaves(value: Any) -> list[Tensor]:
    """The tensors of an output."""
    return [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor)]
