"""What the tests name on the command line: models, and inputs for them."""

from __future__ import annotations

import torch
from torch import nn

from tests.small import MLP, Encoder, Linear

NUMBER = 3


class TwoAttentions(nn.Module):
    """A softmax over the queries, which is no attention, and attention that is plain."""

    def forward(self, q: torch.Tensor) -> torch.Tensor:
        weights = (q @ q.transpose(-2, -1) * 0.5).softmax(-2)
        seen = weights @ q
        return (seen @ seen.transpose(-2, -1)).softmax(-1) @ seen


class DataDependent(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.neg() if x.sum() > 0 else x


def two_attentions() -> tuple[nn.Module, dict[str, torch.Tensor]]:
    return TwoAttentions(), {"q": torch.ones(2, 2, 64, 4)}


def encoder() -> tuple[nn.Module, dict[str, torch.Tensor]]:
    return Encoder(), {"input_ids": torch.arange(12).view(2, 6), "attention_mask": torch.ones(2, 6, dtype=torch.long)}


def padded_encoder() -> tuple[nn.Module, dict[str, torch.Tensor]]:
    mask = torch.arange(6) < torch.tensor([[6], [3]])
    return Encoder(), {"input_ids": torch.arange(12).view(2, 6), "attention_mask": mask}


class Broken(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise ValueError("no weights for this\nof any kind")


def broken() -> tuple[nn.Module, dict[str, torch.Tensor]]:
    return Broken(), {"x": torch.ones(3)}


def training() -> tuple[nn.Module, dict[str, torch.Tensor]]:
    return MLP().train(), {"x": torch.ones(3, 4)}


def data_dependent() -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    return DataDependent(), (torch.ones(3),)


def linear() -> nn.Module:
    return Linear()


def linear_kwargs() -> dict[str, torch.Tensor]:
    return {"x": torch.ones(5, 4)}


def linear_batches() -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [{"x": torch.randn(5, 4, generator=generator)} for _ in range(5)]


def linear_args() -> tuple[torch.Tensor, ...]:
    return (torch.ones(6, 4),)


def wrong_kwargs() -> dict[str, torch.Tensor]:
    return {"y": torch.ones(5, 4)}


def number() -> int:
    return NUMBER


def bert_inputs() -> dict[str, torch.Tensor]:
    return {"input_ids": torch.tensor([[1, 2, 3]])}


def on_meta() -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """A linear with an activation, whose weights have no values."""
    with torch.device("meta"):
        return nn.Sequential(nn.Linear(1 << 20, 1 << 20), nn.GELU()), {"input": torch.ones(2, 1 << 20)}
