"""Faults in linears whose weights are mostly zeros."""

from __future__ import annotations

from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import nn

from tests.mutants.edits import numbers, parameters
from tests.mutants.mutant import Fault, Mutant, Probe, Twins
from tests.small import module
from txgraph.backends.calls import gemm, sparse

Tensor = torch.Tensor


class SparseProbe(Probe):
    """Zeros are left out whatever that takes: what is faster on a busy machine decides over no mutant."""

    def play(self) -> Twins:
        with mock.patch.object(gemm, "fastest", return_value=("sparse", "not measured")):
            return super().play()


def _pruned() -> nn.Module:
    w, b = parameters((64, 64), (64,))
    with torch.no_grad():
        w[torch.rand(64, 64, generator=torch.Generator().manual_seed(0)) > 1 / 4] = 0
    return module(lambda x: torch.relu(F.linear(x, w, b)), w=w, b=b)


def _other_columns(original: Any, weight: Tensor, group: int, block: int) -> Tensor:
    packed: Tensor = original(weight.roll(1, 1), group, block)
    return packed


PRUNED = SparseProbe("a pruned linear", _pruned, lambda: {"x": numbers((6, 64))[0]}, backend="inductor")

ZEROS = (
    Mutant(
        "numbers in other columns",
        "what is not zero is multiplied by the number of the input that is beside its own",
        Fault(sparse, "pack", _other_columns),
        PRUNED,
    ),
    Mutant(
        "lists one too far",
        "each row of a weight gets the numbers of the row before it",
        Fault(sparse, "pack", lambda original, weight, group, block: original(weight.roll(1, 0), group, block)),
        PRUNED,
    ),
    Mutant(
        "small numbers taken for zeros",
        "a number of a weight is left out that is small and not zero",
        Fault(sparse, "pack", lambda original, weight, *rest: original(weight * (weight.abs() > 1e-2), *rest)),
        PRUNED,
    ),
)
