"""How a generated linear goes over its operands, and the operator that stands for one. Nothing here imports tvm."""

from __future__ import annotations

import math
from dataclasses import astuple, dataclass

import torch
import torch.nn.functional as F
from torch.backends import cpu

from txgraph.ir.ops import ACTIVATIONS, define

NARROW = 32  # columns of a task, at least
FEW, MANY = 48, 192  # rows of the input: below the one no panel pays, above the other nothing but panels


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
    """What is worth trying: sums fill the registers of this processor. Few rows of a weight by columns are left to others."""
    lanes = {"AVX512": 16, "AVX2": 8}.get(cpu.get_cpu_capability(), 4)
    wide = lanes == 16  # 32 registers, not 16
    m, k, found = problem.m, problem.k, []
    if m < MANY and not problem.columns:
        depths = sorted({_depth(k, lanes, at_most) for at_most in (k, 768)})
        found += [
            Tiling(lanes, *tile, depth, 0) for tile in (((6, 4), (8, 3)) if wide else ((3, 4),)) for depth in depths
        ]
    if m >= FEW:
        depths = sorted({_depth(k, lanes, at_most) for at_most in (384, 768)})
        found += [Tiling(lanes, 6, (4 if wide else 2) * lanes, depth, 1) for depth in depths]
    return found


def _depth(k: int, lanes: int, at_most: int) -> int:
    """K in equal parts of at most so many numbers, in whole vectors."""
    parts = -(-k // at_most)
    return -(-k // parts // lanes) * lanes


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
