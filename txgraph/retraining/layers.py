"""Linears that train in the form that they will have in inference."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class CompressedLinear(nn.Module):
    """A linear some of whose weights are zero, or that is computed as if it were quantized.

    The parameters are those of the linear itself, under the same names. What the forward multiplies by is computed from
    them at each call, in training as in inference.

    Attributes:
        weight: ``[N, K]``, or ``[K, N]`` if it is ``transposed``. bias: ``[N]`` or ``None``.
        mask: bool, of the shape of ``weight``: what is not zero. ``None``: all.
        divisor: ``[K]``: scale that moves from the input to the weight before both are quantized. ``None``: 1.
        bits: of the weight, 4 or 8; 0: it is not quantized. group: how many numbers share a scale in 4 bits.
        quantizes_rows: whether the input is quantized, too.
    """

    weight: nn.Parameter
    bias: nn.Parameter | None
    mask: torch.Tensor | None
    divisor: torch.Tensor | None

    def __init__(self, weight: nn.Parameter, bias: nn.Parameter | None, transposed: bool = False) -> None:
        super().__init__()
        self.weight, self.transposed = weight, transposed
        self.register_parameter("bias", bias)
        self.register_buffer("mask", None)
        self.register_buffer("divisor", None)
        self.bits, self.group, self.quantizes_rows = 0, 0, False

    @property
    def out_features(self) -> int:
        """N."""
        return self.weight.shape[1 if self.transposed else 0]

    @property
    def in_features(self) -> int:
        """K."""
        return self.weight.shape[0 if self.transposed else 1]

    def effective_weight(self) -> torch.Tensor:
        """What the forward multiplies by, ``[N, K]``: about ``divisor`` times the weight where it is quantized."""
        weight = self.weight if self.mask is None else self.weight * self.mask
        weight = weight.transpose(0, 1) if self.transposed else weight
        if not self.bits:
            return weight
        fake: torch.Tensor = torch.ops.txgraph.fake_quantize_weight(weight, self.divisor, self.bits, self.group)
        return fake

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """``[..., K]`` to ``[..., N]``."""
        if self.quantizes_rows:
            input = torch.ops.txgraph.fake_quantize_rows(input, self.divisor)
        return F.linear(input, self.effective_weight(), self.bias)

    def extra_repr(self) -> str:
        """Sizes, and what is done to the weight."""
        parts = [f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"]
        if self.mask is not None:
            parts.append(f"kept={float(self.mask.float().mean()):.0%}")
        if self.bits:
            parts.append(f"bits={self.bits}" + (f" in groups of {self.group}" if self.bits == 4 else ""))
        return ", ".join([*parts, *["rows in int8"] * self.quantizes_rows])


class LowRankLinear(nn.Module):
    """``second(first(x))``: a linear through fewer channels.

    Attributes:
        first: ``[..., K]`` to ``[..., r]``. second: ``[..., r]`` to ``[..., N]``, with the bias.
    """

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second

    @property
    def weight(self) -> torch.Tensor:
        """The product of both, ``[N, K]``, for code that asks a linear for its weight."""
        product: torch.Tensor = _weight(self.second) @ _weight(self.first)
        return product

    @property
    def bias(self) -> torch.Tensor | None:
        """``[N]`` or ``None``."""
        return self.second._parameters["bias"]

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """``[..., K]`` to ``[..., N]``."""
        result: torch.Tensor = self.second(self.first(input))
        return result


def _weight(part: nn.Module) -> torch.Tensor:
    weight = part.effective_weight() if isinstance(part, CompressedLinear) else part.weight
    assert isinstance(weight, torch.Tensor), "a linear"
    return weight
