"""The acceptance gates G0-G3: is a result as good as eager's?

With ``ye`` eager in the model's dtype, ``y64`` eager in float64 on the same (already rounded) weights
and inputs, and ``yt`` the result under test, for every output leaf:

* G0 structure: same shape, dtype and device; integers, booleans and plain values exactly equal. No output
  shares memory with an input unless eager's does, and inputs that eager leaves alone are bit-identical after.
* G1 non-finite: NaN and infinities at the same places, of the same sign, as eager's.
* G2 root mean square: ``RMSE(yt, y64) <= m RMSE(ye, y64) + t RMS(y64)``.
* G3 largest: ``max|yt - y64| <= 4 max|ye - y64| + 4 eps max|y64|``.

No gate short-circuits another, except that numbers of different shapes cannot be compared.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

# m and t of G2 by dtype: eager in 16 bits or fewer itself scatters more; t is in units of the dtype's epsilon.
_RMS_FACTOR = {torch.float16: 3.0, torch.bfloat16: 3.0, torch.float32: 2.0, torch.float64: 2.0}
_RMS_FLOOR = {torch.float16: 1.0, torch.bfloat16: 1.0, torch.float32: 4.0, torch.float64: 4.0}
_MAX_FACTOR = 4.0
_NO_ROUNDING, _NO_ROUNDING_IN_HALF = 0.01, 0.5  # relative errors of eager that rounding alone hardly makes
_MAX_FLOOR = 4.0
_ONLY_ROUNDING = 32.0  # relative error in units of epsilon: dozens of layers have less


@dataclass(frozen=True)
class GateResult:
    """One gate on one output leaf.

    Attributes:
        gate: ``"G0"`` to ``"G3"``.
        leaf: index of the output leaf.
        passed: whether ``actual <= bound``.
        actual, bound: G0 and G1: the number of differences and 0; G2: RMSE; G3: largest error.
        detail: what differs, for G0 and G1.
    """

    gate: str
    leaf: int
    passed: bool
    actual: float
    bound: float
    detail: str = ""

    def __str__(self) -> str:
        sign = "<=" if self.passed else ">"
        return f"{self.gate} output {self.leaf}: {self.actual:.3g} {sign} {self.bound:.3g} {self.detail}".rstrip()


def check_gates(result: Sequence[Any], eager: Sequence[Any], oracle: Sequence[Any]) -> list[GateResult]:
    """Compare the output leaves of a result with eager's and the float64 oracle's."""
    return Gates(eager, oracle).check(result)


class Gates:
    """The gates on the outputs of one call, for many results: what eager and float64 give is looked at once.

    Args:
        eager, oracle: their output leaves.
        turned: those of float64 with ties rounded the other way (:mod:`txgraph.verify.ties`): errors of eager are then
            the larger ones of eager's and theirs.
    """

    def __init__(self, eager: Sequence[Any], oracle: Sequence[Any], turned: Sequence[Any] | None = None) -> None:
        self._leaves = [*zip(eager, oracle, strict=True)]
        self._turned = turned
        self._bounds: dict[int, tuple[float, float]] = {}  # of G2 and G3, where all numbers are finite

    def check(self, result: Sequence[Any]) -> list[GateResult]:
        """Compare the output leaves of a result."""
        if len(result) != len(self._leaves):
            counts = len(result), len(self._leaves)
            return [GateResult("G0", 0, False, *counts, f"{counts[0]} leaves, eager has {counts[1]}")]
        return [gate for leaf, value in enumerate(result) for gate in self._check(leaf, value)]

    def _check(self, leaf: int, value: Any) -> list[GateResult]:
        eager, oracle = self._leaves[leaf]
        difference = _structure_difference(value, eager)
        if difference:
            return [GateResult("G0", leaf, False, 1, 0, difference)]
        structure = GateResult("G0", leaf, True, 0, 0)
        if not isinstance(eager, torch.Tensor) or not eager.is_floating_point() or eager.numel() == 0:
            return [structure]
        given, truth = _wide(value), _wide(oracle)
        bounds = self._bounds_of(leaf, eager, truth)
        if bounds is None or not _is_finite(given):
            narrow = _wide(eager)
            return [structure, _non_finite(leaf, given, narrow), *_errors(leaf, given, narrow, truth, eager.dtype)]
        return [structure, GateResult("G1", leaf, True, 0, 0), *_judged(leaf, given - truth, bounds)]

    def _bounds_of(self, leaf: int, eager: torch.Tensor, truth: torch.Tensor) -> tuple[float, float] | None:
        if leaf not in self._bounds:
            narrow = _wide(eager)
            if not (_is_finite(narrow) and _is_finite(truth)):
                return None
            bounds = _bounds(narrow - truth, truth, eager.dtype)
            if self._turned is not None and _is_finite(turned := _wide(self._turned[leaf])):
                (rms, largest), (other_rms, other_largest) = bounds, _bounds(turned - truth, truth, eager.dtype)
                bounds = max(rms, other_rms), max(largest, other_largest)
            self._bounds[leaf] = bounds
        return self._bounds[leaf]


def only_rounded(eager: Sequence[Any], oracle: Sequence[Any]) -> bool:
    """Whether eager is as near to float64 as rounding of float32 leaves it; what is no float is equal.

    Of narrower dtypes nobody can tell: their rounding is as large as an error would be.
    """
    return all(map(_only_rounded, eager, oracle))


def _only_rounded(eager: Any, oracle: Any) -> bool:
    if not isinstance(eager, torch.Tensor) or not eager.is_floating_point():
        return not _structure_difference(oracle, eager)
    if not eager.numel():
        return True
    narrow, wide = _wide(eager), _wide(oracle)
    if eager.dtype not in (torch.float32, torch.float64) or not (_is_finite(narrow) and _is_finite(wide)):
        return False
    return _rms(narrow - wide) <= _ONLY_ROUNDING * torch.finfo(torch.float32).eps * _rms(wide)


def distances(eager: Sequence[Any], oracle: Sequence[Any]) -> dict[int, float]:
    """How far eager itself is from float64: the relative root mean square by output leaf, where it is no rounding.

    Both run the same code; where that takes another way without autograd, as torch's fast path of a layer does, they
    compute different things, and G2 and G3 tell nothing.
    """
    found = {}
    for leaf, (ye, y64) in enumerate(zip(eager, oracle, strict=True)):
        if isinstance(ye, torch.Tensor) and ye.is_floating_point() and ye.numel():
            narrow, wide = (v.detach().to("cpu", torch.float64).flatten() for v in (ye, y64))
            finite = narrow.isfinite() & wide.isfinite()
            size = _rms(wide[finite]) if bool(finite.any()) else 0.0
            distance = _rms((narrow - wide)[finite]) / size if size else 0.0
            if distance > (_NO_ROUNDING if ye.element_size() >= 4 else _NO_ROUNDING_IN_HALF):
                found[leaf] = distance
    return found


def shared_inputs(outputs: Sequence[Any], inputs: Sequence[torch.Tensor]) -> list[frozenset[int]]:
    """For each output leaf, the inputs whose memory it shares."""
    memory = [t.untyped_storage().data_ptr() for t in inputs]
    return [
        frozenset(at for at, pointer in enumerate(memory) if pointer == leaf.untyped_storage().data_ptr() != 0)
        if isinstance(leaf, torch.Tensor)
        else frozenset()
        for leaf in outputs
    ]


def check_memory(
    shared: Sequence[frozenset[int]],
    eager_shared: Sequence[frozenset[int]],
    after: Sequence[torch.Tensor],
    before: Sequence[torch.Tensor],
) -> list[GateResult]:
    """The part of G0 on memory: outputs that gained an alias, and inputs (``after`` a run) that were written to."""
    gained = [
        GateResult(
            "G0", leaf, False, 1, 0, f"shares memory with {_named(min(now - then), len(after))}, eager's does not"
        )
        for leaf, (now, then) in enumerate(zip(shared, eager_shared, strict=False))
        if now - then
    ]
    written = [
        GateResult("G0", at, False, 1, 0, f"input {at} was written to")
        for at, (now, then) in enumerate(zip(after, before, strict=True))
        if not same_bits(now, then)
    ]
    return gained + written


def _named(tensor: int, inputs: int) -> str:
    return f"input {tensor}" if tensor < inputs else "a weight or buffer of the model"


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two tensors are equal to the last bit: a NaN equals itself, and zeros of two signs differ."""
    return a.shape == b.shape and a.dtype == b.dtype and torch.equal(_bits(a), _bits(b))


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().contiguous().flatten().view(torch.uint8)


def _wide(value: torch.Tensor) -> torch.Tensor:
    return value.detach().to("cpu", torch.float64).flatten()


def _is_finite(values: torch.Tensor) -> bool:
    """Whether all are: smallest and largest are NaN where one is, and no mask is made of millions of numbers."""
    low, high = torch.aminmax(values)
    return math.isfinite(low) and math.isfinite(high)


def _structure_difference(yt: Any, ye: Any) -> str:
    if not isinstance(ye, torch.Tensor):
        return "" if type(yt) is type(ye) and yt == ye else f"{yt!r} where eager gives {ye!r}"
    if not isinstance(yt, torch.Tensor):
        return f"{type(yt).__name__} where eager gives a tensor"
    for what in ("shape", "dtype", "device"):
        if getattr(yt, what) != getattr(ye, what):
            return f"{what} {getattr(yt, what)} where eager has {getattr(ye, what)}"
    if not ye.is_floating_point():
        wrong = int(((yt != ye) & ~((yt != yt) & (ye != ye))).sum())  # NaN, of complex numbers, is as NaN
        return f"{wrong} of {ye.numel()} values differ" if wrong else ""
    return ""


def _non_finite(leaf: int, result: torch.Tensor, eager: torch.Tensor) -> GateResult:
    nan = result.isnan() != eager.isnan()
    infinite = (result.isinf() | eager.isinf()) & ~(result == eager) & ~nan
    wrong = int(nan.sum()) + int(infinite.sum())
    detail = f"{int(nan.sum())} NaN and {int(infinite.sum())} infinities differ from eager" if wrong else ""
    return GateResult("G1", leaf, wrong == 0, wrong, 0, detail)


def _errors(
    leaf: int, result: torch.Tensor, eager: torch.Tensor, oracle: torch.Tensor, dtype: torch.dtype
) -> list[GateResult]:
    """G2 and G3, over the elements that are finite in all three (G1 judges the others)."""
    finite = result.isfinite() & eager.isfinite() & oracle.isfinite()
    if not bool(finite.any()):
        return []
    result, eager, oracle = result[finite], eager[finite], oracle[finite]
    return _judged(leaf, result - oracle, _bounds(eager - oracle, oracle, dtype))


def _bounds(eager_error: torch.Tensor, oracle: torch.Tensor, dtype: torch.dtype) -> tuple[float, float]:
    """Those of G2 and G3."""
    eps = torch.finfo(dtype).eps
    rms = _RMS_FACTOR.get(dtype, 3.0) * _rms(eager_error) + _RMS_FLOOR.get(dtype, 1.0) * eps * _rms(oracle)
    return rms, _MAX_FACTOR * _largest(eager_error) + _MAX_FLOOR * eps * _largest(oracle)


def _judged(leaf: int, error: torch.Tensor, bounds: tuple[float, float]) -> list[GateResult]:
    """G2 and G3 of a result with these errors."""
    (rms_bound, largest_bound), rms, largest = bounds, _rms(error), _largest(error)
    return [
        GateResult("G2", leaf, rms <= rms_bound, rms, rms_bound),
        GateResult("G3", leaf, largest <= largest_bound, largest, largest_bound),
    ]


def _rms(values: torch.Tensor) -> float:
    return float(torch.linalg.vector_norm(values)) / math.sqrt(values.numel())


def _largest(values: torch.Tensor) -> float:
    low, high = torch.aminmax(values)
    return max(-float(low), float(high))
