"""Linears on CPUs in float32 whose weights are mostly zeros: only the other numbers are stored, and multiplied.

One layout serves all patterns. Groups of rows share a list of the columns where one of them is not zero: groups of one
row for zeros anywhere, of four for blocks that are four rows high or more, where a column of the input that was read
serves four sums. Lists are apart for blocks of columns, whose part of the input fits the first-level cache.

source: vectors along the rows of the input, so that a number of the weight is multiplied by whole vectors wherever it
        stands: Gale et al. 2020 (Sparse GPU kernels for deep learning), Elsen et al. 2020 (Fast sparse convnets)
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from txgraph.backends.kernels.calls import call_linears
from txgraph.ir.ops import define

GROUPS = (1, 4)  # rows that share a list
WIDEST = 256  # columns of a block: their numbers have 8 bits
_PADDING = 32  # parts of a dense weight's bytes, in which sizes are rounded up


def pack(weight: torch.Tensor, group: int, block: int) -> torch.Tensor:
    """A weight as the kernel reads it: sizes, where each list begins, numbers, columns.

    Args:
        weight: float32 ``[N, K]``. group: one of :data:`GROUPS`. block: columns of a block, at most :data:`WIDEST`.

    Returns:
        bytes, ``[S]``: int32 ``group``, ``block`` and the length L of all lists; int32 starts, for each block and each
        group of rows in it; float32 values, ``[L, group]``; uint8 columns ``[L]``, counted from the first of the block.
        S is rounded up, so that layers of about equally many zeros have one type: they are compiled once.
    """
    rows, depth = weight.shape
    padded = F.pad(weight.detach(), (0, -depth % block, 0, -rows % group))
    groups = padded.view(padded.shape[0] // group, group, padded.shape[1] // block, block).permute(2, 0, 3, 1)
    used = (groups != 0).any(-1)  # [blocks, groups, columns]
    values = groups.masked_select(used[..., None])
    columns = torch.arange(block, dtype=torch.uint8).expand_as(used).masked_select(used)
    starts = F.pad(used.sum(-1).flatten().cumsum(0), (1, 0)).to(torch.int32)
    sizes = torch.tensor([group, block, len(columns)], dtype=torch.int32)
    parts = [part.contiguous().view(-1).view(torch.uint8) for part in (sizes, starts, values, columns)]
    step = max(weight.numel() * weight.itemsize // _PADDING, 1)
    return F.pad(torch.cat(parts), (0, -sum(map(len, parts)) % step))


def listed(weight: torch.Tensor, group: int) -> int:
    """How many numbers :func:`pack` stores: in columns of a group where one is not zero, all."""
    used = F.pad(weight.detach() != 0, (0, 0, 0, -weight.shape[0] % group)).unflatten(0, (-1, group)).any(1)
    return int(used.count_nonzero()) * group


def sparse_linears_native(
    input: torch.Tensor,
    weights: Sequence[torch.Tensor],
    biases: Sequence[torch.Tensor | None],
    activation: str,
    widths: Sequence[int],
    block: int,
) -> list[torch.Tensor]:
    """``activation(input @ weight.T + bias)`` for each weight, of float32 on a CPU.

    A number of the input that is not finite counts only where it meets a number of the weight that is not zero, where a
    dense linear has ``0 * inf = NaN``.

    Args:
        input: ``[..., K]``. weights: each ``[N, K]`` as :func:`pack` has it.
        biases: for each weight ``[N]`` or ``None``.
        activation: one of :data:`~txgraph.backends.kernels.calls.ACTIVATIONS`.
        widths: N of each weight. block: of all weights.

    Returns:
        for each weight ``[..., N]``, contiguous.
    """
    results = _results(input, weights, biases, activation, widths)
    call_linears("sparse", "sparse_linears", input, (block,), weights, None, biases, activation, results)
    return results


def _results(
    input: torch.Tensor, weights: object, biases: object, activation: str, widths: Sequence[int], *_: int
) -> list[torch.Tensor]:
    return [input.new_empty((*input.shape[:-1], width)) for width in widths]


define(
    "sparse_linears_native(Tensor input, Tensor[] weights, Tensor?[] biases, str activation, int[] widths, int block) "
    "-> Tensor[]",
    sparse_linears_native,
    _results,
    key="CPU",
)
