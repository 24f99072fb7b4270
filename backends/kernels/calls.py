"""Calls of our kernels for linears.

A kernel takes one array of 64-bit numbers: addresses (0: there is no such tensor), sizes and others. That is the
cheapest call that Python can make; of a decoder's steps, calls are a good part.
"""

from __future__ import annotations

import functools
import math
import struct
from collections.abc import Callable, Sequence

import torch

from txgraph.backends.kernels.build import load

# In the order of activations.h's enum.
ACTIVATIONS = ("", "relu", "gelu", "gelu_tanh", "quick_gelu", "silu", "sigmoid")


def call(library: str, function: str, *numbers: int, factors: Sequence[float] = ()) -> None:
    """Call a function of ``library`` with integers, and behind them numbers that need not be integers."""
    function_of(library, function)(struct.pack(f"{len(numbers)}q{len(factors)}d", *numbers, *factors))


@functools.cache
def function_of(library: str, name: str) -> Callable[[bytes], None]:
    """A function of ``library``, which takes an array of numbers."""
    found: Callable[[bytes], None] = getattr(load(library), name)
    return found


def call_linears(
    library: str,
    function: str,
    input: torch.Tensor,
    beside: Sequence[int],
    weights: Sequence[torch.Tensor],
    scales: Sequence[torch.Tensor] | None,
    biases: Sequence[torch.Tensor | None],
    activation: str,
    results: Sequence[torch.Tensor],
) -> None:
    """Compute linears of one input into ``results``.

    Args:
        input: ``[..., K]``. beside: numbers that this function takes after the input's address.
        weights, scales: as the function takes them; contiguous, or stored by columns where it knows that.
        biases: for each weight ``[N]`` or ``None``. activation: one of :data:`ACTIVATIONS`.
    """
    rows, sizes = rows_of(input)
    held = [bias if bias is None else bias.contiguous() for bias in biases]
    numbers = [rows.data_ptr(), *beside, *sizes, torch.get_num_threads(), ACTIVATIONS.index(activation), len(weights)]
    for at, (weight, bias, result) in enumerate(zip(weights, held, results, strict=True)):
        scale = 0 if scales is None else scales[at].data_ptr()
        bias_at = 0 if bias is None else bias.data_ptr()
        numbers += (weight.data_ptr(), scale, bias_at, result.data_ptr(), result.shape[-1])
    call(library, function, *numbers)


def rows_of(input: torch.Tensor) -> tuple[torch.Tensor, tuple[int, int, int]]:
    """The rows of a tensor, each contiguous; how many, how long, and how far apart they are."""
    *outer, depth = input.shape
    if input.is_contiguous():
        return input, (math.prod(outer), depth, depth)
    rows = input.reshape(math.prod(outer), depth)
    rows = rows if rows.stride(1) == 1 else rows.contiguous()
    return rows, (len(rows), depth, rows.stride(0))


def empty_results(rows: torch.Tensor, weights: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """What linears of float32 ``rows`` are written to: for each weight ``[..., N]``."""
    return [rows.new_empty((*rows.shape[:-1], weight.shape[0])) for weight in weights]


def whole(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Copies of those that are not contiguous."""
    return [tensor.contiguous() for tensor in tensors]
