"""What our Triton kernels are held to: the operators' definitions, computed on a CPU.

The same cases run in Triton's interpreter and on a GPU. Triton and torch's library are imported by who runs them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from tests.helpers import normal
from txgraph.ir.packed import ragged_attention, token_index
from txgraph.ir.quantized import (
    int8_linears,
    quantize_rows,
    quantize_weight,
    quantize_weight_grouped,
    weight_only_linears,
)

F32, F16, BF16 = torch.float32, torch.float16, torch.bfloat16
# Results, and weights of attention before they meet the values, are rounded to the dtype: a few halves of its last bit.
TOLERANCES = {F32: 2e-5, F16: 4e-3, BF16: 3e-2}
Launch = Callable[..., torch.Tensor]


def _near(ours: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype) -> None:
    assert ours.shape == expected.shape
    assert ours.dtype == dtype
    tolerance = TOLERANCES[dtype]
    torch.testing.assert_close(ours.cpu().float(), expected.float(), rtol=tolerance, atol=tolerance)


@dataclass(frozen=True)
class Attention:
    """Attention of sequences with these lengths; ``[N, H, D]`` against ``[N, G, D]``, values of ``Dv``.

    Attributes:
        mask: ``"keys"`` (boolean ``[B, 1, 1, S]``, and one row sees nothing), ``"bias"`` (``[1, H, S, S]``), or none.
        left: padding stands before the tokens. joint: queries, keys and values are views of one tensor.
    """

    dtype: torch.dtype = F32
    lengths: tuple[int, ...] = (20, 1, 0, 7, 16, 17)
    H: int = 2
    G: int = 2
    D: int = 16
    Dv: int = 16
    causal: bool = False
    mask: str = ""
    left: bool = False
    joint: bool = False
    scale: float | None = None

    def check(self, launch: Launch, device: str = "cpu") -> None:
        S = max(self.lengths)
        valid = torch.arange(S) < torch.tensor(self.lengths)[:, None]
        row, position, lengths, _, _ = token_index(valid.flip(1) if self.left else valid)
        N = len(row)
        q, k, v = (normal(N, *size).to(self.dtype) for size in ((self.H, self.D), (self.G, self.D), (self.G, self.Dv)))
        if self.joint:
            q, k, v = torch.cat((q, k, v), 1).split((self.H, self.G, self.G), 1)
        mask = None
        if self.mask == "keys":
            mask = normal(len(self.lengths), 1, 1, S) > 0.3
            mask[0] = False
        elif self.mask == "bias":
            mask = normal(1, self.H, S, S).to(self.dtype).masked_fill(normal(S, S) > 1, -torch.inf)
        wide = [t.float() if t is not None and t.is_floating_point() else t for t in (q, k, v, mask)]
        expected = ragged_attention(*wide[:3], row, position, lengths, wide[3], self.causal, self.scale, True)
        given = [None if t is None else t.to(device) for t in (q, k, v, row, position, lengths, mask)]
        _near(launch(*given, self.causal, self.scale), expected, self.dtype)


@dataclass(frozen=True)
class Int8:
    """A linear ``[..., K]`` to ``[..., N]`` of rows in int8; ``largest``: all numbers are 127, for large sums."""

    rows: tuple[int, ...] = (5,)
    K: int = 72
    N: int = 40
    bias: bool = True
    activation: str = ""
    largest: bool = False

    def check(self, launch: Launch, device: str = "cpu") -> None:
        values, scales = quantize_rows(normal(*self.rows, self.K), None)
        weight, weight_scale = quantize_weight(normal(self.N, self.K + 1)[:, 1:])
        if self.largest:
            values, weight = torch.full_like(values, 127), torch.full_like(weight, 127)
        bias = normal(self.N) if self.bias else None
        (expected,) = int8_linears(values, scales, [weight], [weight_scale], [bias], self.activation)
        given = [None if t is None else t.to(device) for t in (values, scales, weight, weight_scale, bias)]
        ours = launch(*given, self.activation)
        _near(ours / expected.abs().max().to(device), expected / expected.abs().max(), F32)


@dataclass(frozen=True)
class WeightOnly:
    """A linear whose weight is kept in ``bits`` bits a number, in 4 bits with a scale for each ``group``."""

    rows: tuple[int, ...] = (5,)
    bits: int = 8
    group: int = 32
    K: int = 96
    N: int = 40
    dtype: torch.dtype = F32
    bias: bool = True
    activation: str = ""

    def check(self, launch: Launch, device: str = "cpu") -> None:
        x = (normal(*self.rows, self.K) / self.K**0.5).to(self.dtype)
        weight, scales = quantize_weight_grouped(normal(self.N, self.K + 1)[:, 1:], self.bits, self.group)
        bias = normal(self.N).to(self.dtype) if self.bias else None
        wide = None if bias is None else bias.float()
        (expected,) = weight_only_linears(x.float(), [weight], [scales], [wide], self.activation, self.bits, self.group)
        given = [None if t is None else t.to(device) for t in (x, weight, scales, bias)]
        _near(launch(*given, self.activation, self.bits, self.group), expected, self.dtype)


ATTENTION: Sequence[Attention] = (
    Attention(),
    Attention(lengths=(3, 1), H=1, G=1, D=8, Dv=8),
    Attention(lengths=(5, 33), causal=True, H=4, D=24, Dv=40),
    Attention(F16, lengths=(70, 3, 64, 65), H=1, G=1, D=32, Dv=32, causal=True),
    Attention(lengths=(33, 40), H=3, G=1, joint=True),
    Attention(lengths=(33, 9, 5), mask="keys", left=True, scale=1.0),
    Attention(lengths=(12, 35, 0), mask="bias", causal=True),
    Attention(F16, lengths=(9, 70), mask="bias", left=True),
    Attention(lengths=(3, 17), H=1, G=1, D=256, Dv=256),
    Attention(F16, lengths=(3, 40), H=1, G=1, D=192, Dv=128),
)
INT8: Sequence[Int8] = (
    Int8(),
    Int8((1,), K=130, bias=False, activation="gelu"),
    Int8((2, 33), N=130, activation="relu"),
    Int8((17,), activation="silu"),
    Int8((3,), activation="gelu_tanh"),
    Int8((3,), activation="quick_gelu"),
    Int8((3,), activation="sigmoid"),
    Int8((2,), K=2048, N=16, largest=True),
)
WEIGHT_ONLY: Sequence[WeightOnly] = tuple(
    case
    for bits in (8, 4)
    for case in (
        WeightOnly((1,), bits, N=24, activation="gelu"),
        WeightOnly((1, 5), bits, group=96, bias=False),
        WeightOnly((2, 20), bits, group=64, K=192, activation="relu"),
        WeightOnly((70,), bits, dtype=F16),
        WeightOnly((1,), bits, K=320, dtype=F16),
    )
)
CASES: Sequence[Any] = (*ATTENTION, *INT8, *WEIGHT_ONLY)


def larger() -> list[Any]:
    """Sizes of models, and what the interpreter computes wrongly: for a GPU."""
    lengths = tuple(1 + 37 * at % 300 for at in range(200))
    found: list[Any] = [replace(case, dtype=BF16) for case in (*ATTENTION, *WEIGHT_ONLY)]
    for dtype in (F32, F16, BF16):
        found += [
            Attention(dtype, lengths, H=12, G=12, D=64, Dv=64, joint=True),
            Attention(dtype, lengths, H=8, G=2, D=128, Dv=128, causal=True),
            Attention(dtype, lengths[:40], H=4, G=4, D=64, Dv=64, mask="bias"),
            Attention(dtype, lengths[:40], H=2, G=1, D=256, Dv=256, mask="keys"),
            *(WeightOnly((rows,), bits, 64, 1024, 768, dtype) for rows in (1, 7, 300) for bits in (8, 4)),
        ]
    return found + [Int8((rows,), 1024, 768, activation="gelu") for rows in (1, 7, 300)]


def operator_of(case: Any, attention: Any, linears: Any) -> Launch:
    """What a case is for, in these modules of ``txgraph.backends.kernels.gpu``."""
    if isinstance(case, Attention):
        return attention.ragged_attention_triton  # type: ignore[no-any-return]
    return linears.int8_linear_triton if isinstance(case, Int8) else linears.weight_only_linear_triton  # type: ignore[no-any-return]
