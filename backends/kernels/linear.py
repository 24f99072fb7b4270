"""Linear layers on CPUs in float32 that take the weights as the model stores them.

Libraries are fastest where they may keep a rearranged copy of the weight. This kernel needs none: it rearranges the
input instead, which is small where there are few rows; of many rows, or weights by columns, a block of the weight at a
time, in a core's own cache. With AVX-512 it was faster than MKL in most shapes, by up to two thirds
(docs/adr/0044-what-lies-far-apart-is-copied-while-it-is-multiplied.md).

source: Goto and van de Geijn 2008 (Anatomy of high-performance matrix multiplication), for few rows with the roles of
        the operands swapped; activations: polynomials of our own, see activations.h.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from txgraph.backends.kernels.calls import ACTIVATIONS as ACTIVATIONS
from txgraph.backends.kernels.calls import call_linears, empty_results, whole
from txgraph.ir.ops import define


def linears_native(
    input: torch.Tensor, weights: Sequence[torch.Tensor], biases: Sequence[torch.Tensor | None], activation: str
) -> list[torch.Tensor]:
    """``activation(input @ weight.T + bias)`` for each weight, of float32 on a CPU.

    Args:
        input: ``[..., K]``. biases: for each weight ``[N]`` or ``None``.
        weights: each ``[N, K]``; they are read where they are if all lie by rows, or all by columns.
        activation: one of :data:`ACTIVATIONS`.

    Returns:
        for each weight ``[..., N]``, contiguous.
    """
    results = empty_results(input, weights)
    by_rows = all(weight.is_contiguous() for weight in weights)
    columns = not by_rows and all(weight.t().is_contiguous() for weight in weights)
    weights = weights if by_rows or columns else whole(weights)
    call_linears("kernels", "linears", input, (columns,), weights, None, biases, activation, results)
    return results


define(
    "linears_native(Tensor input, Tensor[] weights, Tensor?[] biases, str activation) -> Tensor[]",
    linears_native,
    lambda input, weights, *_: empty_results(input, weights),
    key="CPU",
)
