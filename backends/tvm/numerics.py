"""exp, tanh and erf of float32 as polynomials: LLVM would call the C library for each number.

On GPUs exp and tanh are CUDA's own; with its erf TVM would read and write no vectors. Each polynomial is within a few
units in the last place of float32; infinities and NaN come out as in torch.

source: Cody and Waite 1980 (Software Manual for the Elementary Functions) for the reduction of exp's argument; the
        coefficients were fitted at Chebyshev's nodes; erfc(x) = exp(-x^2) g(1 / (1 + x)) as in Shepherd and
        Laframboise 1981.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import tvm
from tvm import tirx
from tvm.ir import Expr

_LOG2_E, _LN2_HIGH, _LN2_LOW = 1.4426950408889634, 0.693359375, -2.12194440e-4
_EXP = (0.5, 0.16666576266288757, 0.04166646674275398, 0.008363179862499237, 0.0013933646259829402)
_TANH = (-0.333333283662796, 0.13332733511924744, -0.05384499579668045, 0.020968204364180565, -0.006053716875612736)
_ERF = (
    *(1.1283791065216064, -0.3761262595653534, 0.11283597350120544, -0.02685432881116867),
    *(0.005189312156289816, -0.0008018855005502701, 7.882497448008507e-05),
)
_ERFC = (
    *(-0.00011222746252315119, 0.566865086555481, 0.5380572080612183, 0.4118107259273529),
    *(-0.5843879580497742, -0.6976206302642822, 1.379131555557251, -0.6337831616401672),
)


def let(value: Expr, body: Callable[[Expr], Expr]) -> Expr:
    """``body`` of a value that is computed once, however often it is named.

    Integers are left to TVM: it knows the bounds of names, and finds contradictions where a pass copies a loop.
    """
    if "float" not in dtype_of(value):
        return body(value)
    name = tirx.Var("t", dtype_of(value))
    return tirx.Let(name, value, body(name))


def for_gpu() -> bool:
    """Whether what is written now is for a GPU: in the scope of such a target."""
    target = tvm.target.Target.current(allow_none=True)
    return target is not None and str(target.kind.name) == "cuda"


def exp(x: Expr) -> Expr:
    """Euler's number to the power of ``x``."""
    return let(x, _exp) if _is_polynomial(x) else tirx.exp(x)


def _exp(x: Expr) -> Expr:
    inside = tirx.max(tirx.min(x, number(88.7228, x)), number(-87.33654, x))
    power = tirx.floor(inside * _LOG2_E + number(0.5, x))
    result = let(inside, lambda inside: let(power, lambda power: _exp_reduced(inside, power)))
    result = tirx.Select(x > number(88.7228, x), number(float("inf"), x), result)
    result = tirx.Select(x < number(-87.33654, x), number(0.0, x), result)
    return tirx.Select(tirx.isnan(x), x, result)


def _exp_reduced(x: Expr, power: Expr) -> Expr:
    rest = x - power * number(_LN2_HIGH, x) - power * number(_LN2_LOW, x)
    mantissa = let(rest, lambda r: number(1.0, x) + r + r * r * _polynomial(r, _EXP))
    whole = power.astype("int32")
    half = whole // 2  # 2 to the power of 128 is not a number: two factors
    return mantissa * _two_to(half) * _two_to(whole - half)


def tanh(x: Expr) -> Expr:
    """The hyperbolic tangent."""
    return let(x, _tanh) if _is_polynomial(x) else tirx.tanh(x)


def _tanh(x: Expr) -> Expr:
    small = let(x * x, lambda square: x + x * square * _polynomial(square, _TANH))
    size = absolute(x)
    large = number(1.0, x) - number(2.0, x) / (exp(size + size) + number(1.0, x))
    return tirx.Select(size < number(0.625, x), small, let(large, lambda large: _with_sign(large, x)))


def sigmoid(x: Expr) -> Expr:
    """``1 / (1 + exp(-x))``."""
    return number(1.0, x) / (number(1.0, x) + exp(-x))


def erf(x: Expr) -> Expr:
    """The error function."""
    return let(x, _erf) if dtype_of(x) == "float32" else tirx.erf(x)


def _erf(x: Expr) -> Expr:
    size = absolute(x)
    small = x * let(x * x, lambda square: _polynomial(square, _ERF))
    place = number(1.0, x) / (number(1.0, x) + size)
    large = number(1.0, x) - exp(-x * x) * let(place, lambda place: _polynomial(place, _ERFC))
    return tirx.Select(size < number(1.0, x), small, let(large, lambda large: _with_sign(large, x)))


def absolute(x: Expr) -> Expr:
    """The magnitude; of NaN, NaN."""
    return tirx.Select(x < number(0, x), -x, x)


def number(value: float, like: Expr) -> Expr:
    """A number in the dtype of an expression."""
    return tirx.const(value, dtype_of(like))


def dtype_of(x: Expr) -> str:
    """The dtype of an expression, in TVM's words."""
    return str(x.dtype) if hasattr(x, "dtype") else str(x.ty)


def _is_polynomial(x: Expr) -> bool:
    return dtype_of(x) == "float32" and not for_gpu()


def _with_sign(size: Expr, x: Expr) -> Expr:
    return tirx.Select(x < number(0.0, x), -size, size)


def _two_to(power: Expr) -> Expr:
    return tirx.reinterpret("float32", (power + 127) << 23)


def _polynomial(x: Expr, coefficients: Sequence[float]) -> Expr:
    result = number(coefficients[-1], x)
    for coefficient in coefficients[-2::-1]:
        result = result * x + number(coefficient, x)
    return result


DTYPES = {
    torch.float32: "float32",
    torch.float16: "float16",
    torch.bfloat16: "bfloat16",
    torch.float64: "float64",
    torch.int64: "int64",
    torch.int32: "int32",
    torch.bool: "bool",
}
HALVES = ("float16", "bfloat16")
"""Computed in float32; the result of each operator is rounded, as in torch."""
