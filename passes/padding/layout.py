"""Where the tokens of a padded batch are among the axes of a value, through any reshape and transpose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import sympy
import torch

Token = Literal["batch", "sequence"]
Part = Token | int  # of an axis: the batch, the sequence, or a plain size
Axis = tuple[Part, ...]


@dataclass(frozen=True)
class TokenAxes:
    """The sizes of the batch and of the sequence axis."""

    batch: int | torch.SymInt
    sequence: int | torch.SymInt

    def size(self, part: Part) -> sympy.Expr:
        """The size of a part of an axis."""
        return expression(part if isinstance(part, int) else getattr(self, part))


@dataclass(frozen=True)
class Layout:
    """How the axes of a value ``[B, S, ...]`` are made up.

    An axis is plain (one size), or holds the batch, the sequence or both, and perhaps plain parts with them, as in
    ``[S, B * H, D]``. Packed, the value is ``[N, ...]``: the plain parts in their order, a plain axis as it is.
    """

    axes: tuple[Axis, ...]

    @property
    def rank(self) -> int:
        """Number of axes of the padded value."""
        return len(self.axes)

    def is_plain(self, axis: int) -> bool:
        """Whether an axis holds neither batch nor sequence."""
        return not any(isinstance(part, str) for part in self.axes[axis])

    def tokens_from_right(self) -> tuple[tuple[int, Axis], ...]:
        """The axes with tokens, counted from the right as broadcasting does, and what they hold."""
        return tuple((self.rank - at, axis) for at, axis in enumerate(self.axes) if not self.is_plain(at))

    def axis_of(self, token: Token) -> int | None:
        """The axis that holds nothing but the batch, or the sequence."""
        return next((at for at, axis in enumerate(self.axes) if axis == (token,)), None)

    def packed_axis(self, axis: int) -> int:
        """Where a plain axis is in the packed value."""
        return 1 + sum(len(self.plain_sizes(at)) for at in range(axis))

    def plain_sizes(self, axis: int) -> list[int]:
        """The plain sizes of one axis: axes of the packed value."""
        return [part for part in self.axes[axis] if isinstance(part, int)]

    @property
    def packed_sizes(self) -> list[int]:
        """The sizes of the packed value after ``N``."""
        return [size for at in range(self.rank) for size in self.plain_sizes(at)]

    def resized(self, shape: Sequence[int | torch.SymInt]) -> Layout | None:
        """The same axes, the plain ones with other sizes; ``None`` if one of these varies, or is empty."""
        if len(shape) != self.rank:
            return None
        axes: list[Axis] = []
        for at, size in enumerate(shape):
            if self.is_plain(at) and (not isinstance(size, int) or size == 0):
                return None
            axes.append((int(size),) if self.is_plain(at) else self.axes[at])
        return Layout(tuple(axes))

    def permuted(self, order: Sequence[int]) -> Layout:
        """The axes in another order."""
        return Layout(tuple(self.axes[at] for at in order))

    def inserted(self, axis: int) -> Layout:
        """With a plain axis of size 1 before ``axis``."""
        return Layout((*self.axes[:axis], (1,), *self.axes[axis:]))

    def without(self, axis: int) -> Layout:
        """Without a plain axis."""
        return Layout((*self.axes[:axis], *self.axes[axis + 1 :]))

    def reshaped(self, shape: Sequence[int | torch.SymInt], tokens: TokenAxes) -> Layout | None:
        """The axes after a reshape; ``None`` if it cuts the batch or the sequence into pieces."""
        parts = [part for axis in self.axes for part in axis if part != 1]
        axes: list[Axis] = []
        for size in shape:
            axis, missing = [], expression(size)
            while missing != 1:
                if missing == 0:
                    return None
                taken, parts = _take(parts, missing, tokens)
                if taken is None:
                    return None
                axis.append(taken)
                missing = sympy.cancel(missing / tokens.size(taken))
            if not any(isinstance(part, str) for part in axis):
                if not isinstance(size, int):
                    return None
                axis = [size]
            axes.append(tuple(axis))
        return None if parts else Layout(tuple(axes))


def _take(parts: list[Part], missing: sympy.Expr, tokens: TokenAxes) -> tuple[Part | None, list[Part]]:
    """The next part of an axis that still lacks a factor: the first part, or a piece of it if it is plain."""
    if not parts:
        return None, parts
    first, rest = parts[0], parts[1:]
    if _divides(tokens.size(first), missing):
        return first, rest
    if isinstance(first, int) and isinstance(missing, sympy.Integer) and first % int(missing) == 0:
        return int(missing), [first // int(missing), *rest]
    return None, parts


def _divides(size: sympy.Expr, product: sympy.Expr) -> bool:
    ratio = sympy.cancel(product / size)
    numerator, denominator = sympy.fraction(ratio)
    return bool(denominator == 1 and numerator != 0)


def expression(size: int | torch.SymInt) -> Any:
    """A size as a sympy expression; adds no guard."""
    return sympy.Integer(size) if isinstance(size, int) else size.node.expr
