"""What programs are run on: sizes, dtypes, values and layouts at which rules break."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch

from txgraph.check.program import Leaf, Program, resized

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Case:
    """One way to run a program.

    Attributes:
        sizes: other sizes of axes; the others have their prime.
        values, layout: names of :data:`VALUES` and :data:`LAYOUTS`.
    """

    sizes: Mapping[int, int] = field(default_factory=dict)
    dtype: torch.dtype = torch.float32
    values: str = "normal"
    layout: str = "contiguous"

    def __str__(self) -> str:
        return f"{self.values} values of {self.dtype}, {self.layout}"

    def tensors(self, program: Program) -> dict[str, torch.Tensor]:
        """A tensor for each leaf; constants are normal, contiguous numbers in every case."""
        chance = torch.Generator().manual_seed(0)
        return {leaf.name: self._tensor(leaf, chance) for leaf in program.leaves}

    def _tensor(self, leaf: Leaf, chance: torch.Generator) -> torch.Tensor:
        shape = tuple(resized(size, self.sizes) for size in leaf.shape)
        if leaf.dtype is torch.int64:
            return torch.randint(0, 2, shape, generator=chance)
        normal = torch.randn(shape, generator=chance, dtype=torch.float64)
        if leaf.dtype is torch.bool:
            values = normal > {"zeros": math.inf, "large": -math.inf}.get(self.values, 0.0)
        else:
            values = (normal if leaf.constant else VALUES[self.values](normal, self.dtype)).to(self.dtype)
        return values.contiguous() if leaf.constant else LAYOUTS[self.layout](values)


def _one(value: float) -> Callable[[torch.Tensor, torch.dtype], torch.Tensor]:
    def put_in(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        x = x.clone()
        if x.numel():
            x.view(-1)[x.numel() // 2] = value
        return x

    return put_in


VALUES: dict[str, Callable[[torch.Tensor, torch.dtype], torch.Tensor]] = {
    "normal": lambda x, dtype: x,
    "zeros": lambda x, dtype: x * 0,
    "negative zero": lambda x, dtype: x.abs() * -0.0,
    "large": lambda x, dtype: x * (50.0 if dtype is torch.float16 else 1e4),
    "tiny": lambda x, dtype: x * 1e-6,
    "NaN": _one(math.nan),
    "inf": _one(math.inf),
    "-inf": _one(-math.inf),
}


def _expanded(x: torch.Tensor) -> torch.Tensor:
    """Its first row again and again, in one memory."""
    return x[:1].expand(x.shape) if x.ndim and len(x) else x


def _sliced(x: torch.Tensor) -> torch.Tensor:
    """Every other element of a larger tensor."""
    return torch.stack([x, x + 1], -1)[..., 0] if x.dtype is not torch.bool else torch.stack([x, ~x], -1)[..., 0]


LAYOUTS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "contiguous": lambda x: x.contiguous(),
    "transposed": lambda x: x.transpose(0, -1).contiguous().transpose(0, -1) if x.ndim > 1 else x.contiguous(),
    "expanded": _expanded,
    "sliced": _sliced,
}


def cases(program: Program) -> list[Case]:
    """All ways to run it: each size, dtype, kind of values and layout that differs from the first case by itself."""
    axes = program.axes
    sizes = [{axis: size} for axis in axes for size in (0, 1, 2, 17)] + [dict.fromkeys(axes, size) for size in (0, 1)]
    float64 = torch.float64
    return [
        *(Case(dtype=dtype) for dtype in DTYPES),
        *(Case(sizes=each, dtype=dtype) for each in sizes for dtype in (torch.float32, float64)),
        *(Case(values=each, dtype=dtype) for each in VALUES if each != "normal" for dtype in DTYPES),
        *(Case(layout=each) for each in LAYOUTS if each != "contiguous"),
    ]
