"""Compute linears through fewer channels: a weight as the product of two thin ones.

before:  linear(x, W, b)                        x: [..., K]  W: [N, K]
after:   linear(linear(x, V), U, b)             V: [r, K]  U: [N, r]  U @ V about W
legal:   lossy: under a budget only. Linears of one input (query, key, value) share V
pays:    r (N + K) numbers are read and multiplied in place of N K; declined where they are no fewer
source:  Eckart & Young 1936; with inputs: of all U V of rank r, the one that is nearest in E|W x - U V x|^2 comes from
         the singular vectors of W L, L L^T = E[x x^T] (Wang et al. 2024, "SVD-LLM")
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch.fx import Node

from txgraph.ir import GraphBuilder
from txgraph.ir.linears import Linears
from txgraph.passes.moments import shrunk_moments
from txgraph.rewrite import LinearPass, LossyPass, Observed, Prepared

MULTIPLE = 16  # of which ranks are, where they are chosen: kernels like it
FEWEST_SAVED = 0.1  # of the numbers: below, no kernel gains


@dataclass(frozen=True, kw_only=True)
class LowRank(LinearPass):
    """Truncated singular value decomposition of weights, in the norm of what flows into them.

    Attributes:
        rank: r. error: instead, the smallest r that leaves this relative error of the linear's own results.

    Raises:
        ValueError: not exactly one of the two is given, or it is not positive.
    """

    rank: int | None = None
    error: float | None = None

    def __post_init__(self) -> None:
        if (self.rank is None) == (self.error is None):
            raise ValueError("LowRank: give either rank or error")
        if (self.rank if self.error is None else self.error) <= 0:  # type: ignore[operator]  # one is given
            raise ValueError(f"LowRank: expected a positive {'rank' if self.error is None else 'error'}")

    @property
    def label(self) -> str:
        return f"low rank, {f'r = {self.rank}' if self.error is None else f'error {self.error:g}'}"

    def fails_with(self, other: LossyPass) -> bool:
        """Where a larger error needs too many channels, a smaller one does."""
        if not isinstance(other, LowRank) or self.error is None or other.error is None:
            return False
        return self.modules == other.modules and self.error < other.error

    def prepare(self, weights: Sequence[torch.Tensor], observed: Observed | None) -> Prepared | str:
        weight = torch.cat([each.detach() for each in weights]).double()
        rows, columns = weight.shape
        root = torch.linalg.cholesky(shrunk_moments(observed, columns))
        gram = _gram(weight, root)
        rank = min(self.rank or _rank(torch.linalg.eigvalsh(gram), self.error or 0.0), len(gram))
        if rank * (rows + columns) > (1 - FEWEST_SAVED) * rows * columns:
            return f"rank {rank} of [{rows}, {columns}] saves less than {FEWEST_SAVED:.0%} of its numbers"
        second, first = (factor.float() for factor in _factors(weight, root, gram, rank))
        if not bool(first.isfinite().all() and second.isfinite().all()):
            return "its factors are not finite"
        parts = second.split([len(each) for each in weights])
        return {"V": first.contiguous()} | {f"U{at}": part.contiguous() for at, part in enumerate(parts)}

    def put(self, linears: Linears, constants: Mapping[str, Node], g: GraphBuilder) -> Sequence[Node]:
        inner = g.aten.linear(linears.input, constants["V"])
        pairs = [(constants[f"U{at}"], bias) for at, bias in enumerate(linears.biases)]
        if linears.activation:
            return [g.txgraph.linear_activation(inner, *pairs[0], linears.activation)]
        return [g.aten.linear(inner, weight, bias) for weight, bias in pairs]


def _gram(weight: torch.Tensor, root: torch.Tensor) -> torch.Tensor:
    """A square of ``W L``, of its smaller side; ``L L^T`` are the moments.

    Its eigenvalues are the squares of the singular values, for less than a singular value decomposition.
    """
    if _is_wide(weight):
        product = weight @ root
        return product @ product.T
    return root.T @ (weight.T @ weight) @ root


def _factors(
    weight: torch.Tensor, root: torch.Tensor, gram: torch.Tensor, rank: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The U and V of a rank that are nearest in ``|(W - U V) L|``."""
    axes = torch.linalg.eigh(gram)[1].flip(1)[:, :rank]
    if _is_wide(weight):  # A A^T W, with the left singular vectors of W L
        return axes, axes.T @ weight
    first: torch.Tensor = torch.linalg.solve_triangular(root.T, axes, upper=True).T  # W L A, A^T L^-1: with the right
    return weight @ root @ axes, first


def _is_wide(weight: torch.Tensor) -> bool:
    return weight.shape[0] <= weight.shape[1]


def _rank(squares: torch.Tensor, error: float) -> int:
    """The smallest rank whose rest is at most this share of the whole, as root of sums of squares.

    Args:
        squares: of the singular values, the smallest first; what rounding made negative is nothing.
    """
    squares = squares.clamp_min(0.0)
    kept = int((squares.cumsum(0) > error**2 * squares.sum()).count_nonzero())  # what is left out up to here
    return -(-max(kept, 1) // MULTIPLE) * MULTIPLE
