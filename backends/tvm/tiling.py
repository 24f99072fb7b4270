"""How a generated linear goes over its operands, and the operator that stands for one. Nothing here imports tvm."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass

import torch
import torch.nn.functional as F
from torch.backends import cpu

from txgraph.ir.ops import ACTIVATIONS, define

NARROW = 32  # columns of a task, at least
FEW, MANY = 96, 192  # rows of the input: below the one no panel pays, above the other nothing but panels


@dataclass(frozen=True)
class Tiling:
    """Sizes of a generated linear's loops.

    Attributes:
        lanes: float32 numbers of a vector. rows: of the input, in a tile. columns: of the result, in a tile.
        depth: numbers of K that are taken at a time, a multiple of ``lanes``.
        panels: 1: columns of the weight are rearranged for all rows of the input; 0: rows of it are read as they lie.
    """

    lanes: int
    rows: int
    columns: int
    depth: int
    panels: int

    @property
    def width(self) -> int:
        """Columns of a task: whole tiles, and whole vectors."""
        step = math.lcm(self.columns, self.lanes)
        return step * -(-NARROW // step)

    @property
    def numbers(self) -> list[int]:
        """As the operator takes it."""
        return list(astuple(self))

    def __str__(self) -> str:
        return f"{'panels' if self.panels else 'rows'}_{self.rows}x{self.columns}x{self.depth}"


@dataclass(frozen=True)
class Problem:
    """A linear's sizes: ``[m, k] @ [n, k].T``.

    Attributes:
        columns: the weight is stored as ``[K, N]``.
    """

    m: int
    k: int
    n: int
    columns: bool

    @property
    def about(self) -> str:
        """All that times depend on, beside the machine."""
        return f"tilings of {self!r}"


def tilings(problem: Problem) -> list[Tiling]:
    """What is worth trying: sums fill the registers of this processor.

    Few rows of the input by a weight that is stored as ``[K, N]`` are left to others.
    """
    lanes = {"AVX512": 16, "AVX2": 8}.get(cpu.get_cpu_capability(), 4)
    many = lanes == 16  # registers: 32, else 16
    k, found = problem.k, []
    if problem.m < MANY and not problem.columns:
        tiles = ((6, 4), (8, 3)) if many else ((3, 4),)
        depths = (768,) if problem.m >= FEW else (768, k)
        found += [Tiling(lanes, *tile, depth, 0) for tile in tiles for depth in _depths(k, lanes, depths)]
    if problem.m >= FEW:
        width = (4 if many else 2) * lanes
        found += [Tiling(lanes, 6, width, depth, 1) for depth in _depths(k, lanes, (384, 768))]
    return found


def _depths(k: int, lanes: int, most: Sequence[int]) -> list[int]:
    """K in equal parts of at most so many numbers, in whole vectors."""
    return sorted({-(-k // (-(-k // each) * lanes)) * lanes for each in most})


def _linear_generated(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    activation: str,
    columns: bool,
    tiling: list[int],
) -> torch.Tensor:
    result = F.linear(input, weight.t() if columns else weight, bias)
    return ACTIVATIONS[activation](result) if activation else result


define(
    "linear_generated(Tensor input, Tensor weight, Tensor? bias, str activation, bool columns, int[] tiling) -> Tensor",
    _linear_generated,
    lambda input, weight, bias, activation, columns, tiling: input.new_empty(
        (*input.shape[:-1], weight.shape[1 if columns else 0])
    ),
    key="CPU",
)
LINEAR = torch.ops.txgraph.linear_generated.default
"""Stands in a graph until its function is generated; run as it is, it is torch's linear."""
