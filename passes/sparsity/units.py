"""Which places along an axis of a value belong to which unit: a hidden channel, or an attention head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch

from txgraph.ir import same_size

Size = int | torch.SymInt
NO_UNIT = -1


@dataclass(frozen=True, eq=False)
class Units:
    """The units along one axis of a value.

    Attributes:
        axis: counted from the left.
        labels: int64 ``[n]``: the unit of each place, or ``NO_UNIT``. The axis has a multiple of n places, of which
            each n after another have these labels: in ``[S, B * H, D]`` the heads of every row of the batch.
    """

    axis: int
    labels: torch.Tensor

    def along(self, axis: int) -> Units:
        """The same labels along another axis."""
        return Units(axis, self.labels)

    def kept(self, kept: torch.Tensor) -> torch.Tensor:
        """Which places stay, ``[n]``, where ``kept`` says it of each unit; those of no unit do."""
        return torch.where(self.labels == NO_UNIT, True, kept[self.labels])

    def cut(self, first: int, last: int, size: Size) -> Units | str | None:
        """The units of the places from ``first`` to before ``last`` of ``size``; ``None`` if there are none."""
        if not same_size(size, len(self.labels)):
            return "units that repeat along an axis are cut"
        piece = self.labels[first:last]
        return Units(self.axis, piece) if bool((piece != NO_UNIT).any()) else None

    def placed(self, first: int, size: Size) -> Units | str:
        """The units of an axis of ``size`` places, those from ``first`` on being these."""
        if not isinstance(size, int):
            return f"units are a piece of an axis of {size} places"
        labels = torch.full((size,), NO_UNIT)
        labels[first : first + len(self.labels)] = self.labels
        return Units(self.axis, labels)

    def merged(self, other: Units) -> Units | None:
        """Both, where each knows some places; ``None`` if they contradict each other."""
        short, long = sorted((self.labels, other.labels), key=len)
        if self.axis != other.axis or len(long) % len(short):
            return None
        short = short.repeat(len(long) // len(short))
        if bool(((short != long) & (short != NO_UNIT) & (long != NO_UNIT)).any()):
            return None
        return Units(self.axis, torch.maximum(short, long))

    def reshaped(self, source: Sequence[Size], result: Sequence[Size]) -> Units | str:
        """The units after a reshape from ``source`` to ``result``; why that cannot be said, as a text."""
        first, after = 0, 0  # axes on the left, and on the right, that the reshape leaves alone
        while first < min(self.axis, len(result)) and same_size(source[first], result[first]):
            first += 1
        most = min(len(source) - self.axis - 1, len(result) - first)
        while after < most and same_size(source[-1 - after], result[-1 - after]):
            after += 1
        inner = source[self.axis + 1 : len(source) - after]
        changed = range(first, len(result) - after)
        if not all(isinstance(size, int) for size in inner):
            return f"a reshape from {_text(source)} to {_text(result)} joins a varying axis with the units"
        labels = self.labels.repeat_interleave(prod(int(size) for size in inner))
        for axis in reversed(changed):
            size, count = result[axis], len(labels)
            if axis == first:
                return Units(axis, labels)
            if not isinstance(size, int):
                break
            if size % count == 0:
                return Units(axis, labels)
            rows = labels.view(-1, size) if count % size == 0 else labels[None]
            if count % size == 0 and bool((rows == rows[:, :1]).all()):
                labels = rows[:, 0]
            elif count % size == 0 and bool((rows == rows[:1]).all()):
                return Units(axis, rows[0])
            else:
                break
        return f"a reshape from {_text(source)} to {_text(result)} divides the units among axes"


def _text(shape: Sequence[Size]) -> str:
    return f"[{', '.join(map(str, shape))}]"
