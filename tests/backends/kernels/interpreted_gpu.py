"""Our Triton kernels in Triton's interpreter, as tests of a process of its own: ``test_gpu.py`` starts it.

The interpreter has to be wanted (``TRITON_INTERPRET=1``) before Triton is imported. It truncates where a GPU rounds to
bfloat16, which is left out.
"""

from __future__ import annotations

import importlib.util
import inspect
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.backends.kernels.gpu_cases import ATTENTION, CASES, Attention, Int8, WeightOnly, operator_of
from txgraph.backends.kernels.gpu import attention, linears

ONE_AND_CAUSAL = Attention(lengths=(5, 2), H=1, G=1, causal=True)
PLAIN, ONE, CAUSAL, _, GROUPED, KEYS, BIAS, *_ = ATTENTION
EIGHT, FOUR = Int8(), WeightOnly(bits=4, group=64, K=128, N=8)
# A wrong line for a right one, and the case that sees it; none of them reads or writes beyond its tensors.
FAULTS: list[tuple[str, str, str, Any]] = [
    ("the last key is not seen", "in_n = n < length", "in_n = n < length - 1", PLAIN),
    ("a sequence starts a token early", "tl.cast(start, ", "tl.cast(tl.maximum(start - 1, 0), ", ONE),
    ("causal hides the token itself", "n[None, :] <= m[:, None]", "n[None, :] < m[:, None]", ONE_AND_CAUSAL),
    ("sums are not rescaled", "sums * shrunk[:, None] +", "sums +", GROUPED),
    ("total is not rescaled", "total * shrunk +", "total +", GROUPED),
    (
        "groups take heads in turns",
        "head // GROUP * value_head",
        "head % (tl.num_programs(1) // GROUP) * value_head",
        CAUSAL,
    ),
    ("a mask of another row", "tl.load(row + start) * mask_row", "tl.load(row) * mask_row", KEYS),
    ("a mask by the place in the sequence", "tl.load(position + start + n, mask=in_n, other=0)", "n", KEYS),
    ("a query that sees nothing is NaN", "tl.where(total == 0.0, 1.0, total)", "total", KEYS),
    (
        "sequences beyond the first that are looked through",
        "tokens_before += tl.sum(sizes, 0)",
        "tokens_before += 0",
        PLAIN,
    ),
    ("a mask without its heads", "+ head * mask_head", "+ 0", BIAS),
    ("the scale of the first row", "tl.load(scales + m, mask=m < rows", "tl.load(scales + m * 0, mask=m < rows", EIGHT),
    ("the last number of a row is left out", "inside = k < K - first", "inside = k < K - first - 1", EIGHT),
    ("no scale of the weight", "* tl.load(weight_scale + n, mask=n < N, other=0.0)[None, :]", "+ 0", EIGHT),
    ("a half of a byte without its sign", "(number - ((number & 8) << 1))", "number", FOUR),
    ("halves of a byte are neighbours", "at // 16 * 32 + at % 16 + 16 * half", "2 * at + half", FOUR),
    ("a scale of another group", "(k // GROUP)[None, :]", "(at // GROUP)[None, :]", FOUR),
]


@pytest.fixture(autouse=True)
def interpreter() -> None:
    """Kernels are called as they are; sequences are looked through four at a time."""
    for module in (attention, linears):
        _interpret(module)


def _interpret(module: ModuleType) -> None:
    module.wrap_triton = lambda kernel: kernel  # type: ignore[attr-defined]
    module._ROWS = 4  # type: ignore[attr-defined]


@pytest.mark.parametrize("case", [*CASES, ONE_AND_CAUSAL, EIGHT, FOUR], ids=str)
def test_numbers(case: Any) -> None:
    case.check(operator_of(case, attention, linears))


@pytest.mark.parametrize(("name", "right", "wrong", "case"), FAULTS, ids=[name for name, *_ in FAULTS])
def test_a_fault_is_seen(name: str, right: str, wrong: str, case: Any, tmp_path: Path) -> None:
    module = attention if isinstance(case, Attention) else linears
    text = inspect.getsource(module)
    assert text.count(right) == 1, "the fault is badly written"
    path = tmp_path / "faulty.py"
    path.write_text(text.replace(right, wrong).replace('"txgraph::', '"txgraph_with_a_fault::'))
    spec = importlib.util.spec_from_file_location(f"faulty_{abs(hash(name))}", path)
    assert spec is not None
    assert spec.loader is not None
    faulty = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(faulty)
    _interpret(faulty)
    with pytest.raises(AssertionError):
        case.check(operator_of(case, faulty, faulty))
