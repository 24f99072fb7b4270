"""How a model whose forward rounds is judged: quantization is not continuous.

Two results that are equally good may differ by a whole step where a value is half way between two integers. So graphs
are compared with inputs of linears left as they are, :class:`WithoutRounding`: nothing hides behind steps there. What
is compiled cannot be run so. How much steps may change in its outputs, :func:`with_ties_turned` shows.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from txgraph.ir import Graph
from txgraph.ir.quantized import LARGEST, quantize_rows
from txgraph.verify.oracle import in_float64

_ROWS, _FAKE_ROWS = torch.ops.txgraph.quantize_rows.default, torch.ops.txgraph.fake_quantize_rows.default
_NEAR = 8 * LARGEST * torch.finfo(torch.float32).eps  # of a step: errors of some epsilons of the row's largest number


def with_ties_turned(graph: Graph, inputs: Sequence[Any]) -> tuple[Any, ...] | None:
    """What a graph gives in float64 if every value near a tie is rounded the other way; ``None`` if it rounds none."""
    if not any(node.target in (_ROWS, _FAKE_ROWS) for node in graph.calls()):
        return None
    with _TiesTurned():
        return in_float64(graph, inputs)


class _Rounding(TorchDispatchMode):
    """Runs code with rows quantized in another way."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func not in (_ROWS, _FAKE_ROWS):
            return func(*args, **(kwargs or {}))
        values, scales = self.rows(*args)
        return (values, scales) if func is _ROWS else values * scales

    @abstractmethod
    def rows(self, input: torch.Tensor, divisor: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Values and scales, in the place of those of :func:`quantize_rows`."""


class WithoutRounding(_Rounding):
    """Runs code as if rows were quantized without rounding: ``input / divisor`` itself, and scales of 1."""

    def rows(self, input: torch.Tensor, divisor: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """All scale is in the values, which are no integers."""
        exact = input.clone() if divisor is None else input / divisor
        return exact, exact.new_ones((*exact.shape[:-1], 1))


class _TiesTurned(_Rounding):
    def rows(self, input: torch.Tensor, divisor: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """The other integer where the fraction is about a half."""
        values, scales = quantize_rows(input, divisor)
        x = input if divisor is None else input / divisor
        rest = torch.where(scales != 0, x / scales, 0.0) - values
        other = values + rest.sign().to(torch.int8)
        return torch.where((rest.abs() - 0.5).abs() < _NEAR, other, values), scales
