"""Data like that of a row, but not the row's own: for budgets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

BATCHES, ROWS = 16, 4


def batches(model: nn.Module, inputs: Mapping[str, Any]) -> list[dict[str, torch.Tensor]]:
    """Sixteen batches of four: real sentences for the real MiniLM, else random tokens with the row's masks.

    Sequences are as long as the row's, and padded by as much.
    """
    from benchmarks import minilm

    if isinstance(model, minilm.Embeddings):
        return minilm.calibration_batches(BATCHES, ROWS, inputs["input_ids"].shape[1])
    generator = torch.Generator().manual_seed(1)
    found = []
    for _ in range(BATCHES):
        rows = torch.randint(len(inputs["input_ids"]), (ROWS,), generator=generator)
        batch = {name: value[rows] for name, value in inputs.items()}
        vocabulary = int(inputs["input_ids"].max()) + 1
        batch["input_ids"] = torch.randint(1, vocabulary, batch["input_ids"].shape, generator=generator)
        found.append(batch)
    return found
