"""A Transformer layer by hand that takes any size, zero and one included, and any additive mask."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

import txgraph

WIDTH = 16


class Block(nn.Module):
    """Attention and norms from their parts, so that every kind of rewrite has work. Made in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.query, self.key, self.value, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.up, self.down = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)
        self.scale = nn.Parameter(torch.ones(WIDTH))
        self.eval()

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        batch, length, width = x.shape
        heads = (batch, length, 2, width // 2)
        q, k, v = (part(x).view(heads).transpose(1, 2) for part in (self.query, self.key, self.value))
        scores = q @ k.transpose(-1, -2) / math.sqrt(width // 2)
        if mask is not None:
            scores = scores + mask
        y = (torch.softmax(scores, -1) @ v).transpose(1, 2).reshape(batch, length, width)
        x = self.norm(self.out(y) + x)
        return self.norm(self.down(nn.functional.gelu(self.up(x))) + x)

    def norm(self, x: torch.Tensor) -> torch.Tensor:
        """A layer norm."""
        centred = x - x.mean(-1, keepdim=True)
        return centred / torch.sqrt(centred.pow(2).mean(-1, keepdim=True) + 1e-12) * self.scale


def block(dtype: torch.dtype = torch.float32) -> Block:
    """A layer with seeded weights."""
    return Block().to(dtype)


def normal(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Seeded normal numbers, [.., WIDTH]."""
    return torch.randn(*shape, WIDTH, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)


def optimized(model: nn.Module, *args: Any, **options: Any) -> txgraph.OptimizedModel:
    """The whole default road, with the backend that needs no compiler."""
    return txgraph.optimize(model, args, **{"backend": "reference", **options})


def statuses(fast: txgraph.OptimizedModel) -> dict[str, str]:
    """What became of each pass in the last graph, by name; of one that runs twice, the stronger of both."""
    found: dict[str, str] = {}
    for record in fast.report.graphs[-1].passes:
        found[record.name] = max(found.get(record.name, ""), record.status, key=ORDER.index)
    return found


ORDER = ["", "unchanged", "applied", "rolled back"]
