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

from tests.backends.kernels.gpu_cases import CASES, Attention, Int8, WeightOnly, operator_of
from txgraph.backends.kernels.gpu import attention, linears

# A wrong line for a right one, in the kernels; none of them reads or writes beyond its tensors.
FAULTS = [
    ("the last key is not seen", "in_n = n < length", "in_n = n < length - 1"),
    ("a sequence starts a token early", "origin = start.to", "origin = tl.maximum(start - 1, 0).to"),
    ("causal hides the token itself", "n[None, :] <= m[:, None]", "n[None, :] < m[:, None]"),
    ("sums are not rescaled", "sums * shrunk[:, None] +", "sums +"),
    ("total is not rescaled", "total * shrunk +", "total +"),
    ("groups take heads in turns", "head // GROUP * value_head", "head % (tl.num_programs(1) // GROUP) * value_head"),
    ("a mask of another row", "tl.load(row + start) * mask_row", "tl.load(row) * mask_row"),
    ("a mask by the place in the sequence", "tl.load(position + start + n, mask=in_n, other=0)", "n"),
    ("a query that sees nothing is NaN", "tl.where(total == 0.0, 1.0, total)", "total"),
    ("sequences beyond the first that are looked through", "tokens_before += tl.sum(sizes, 0)", "tokens_before += 0"),
    ("the scale of the first row", "tl.load(scales + m, mask=m < rows", "tl.load(scales + m * 0, mask=m < rows"),
    ("the last number of a row is left out", "inside = k < K - first", "inside = k < K - first - 1"),
    ("a half of a byte without its sign", "(number - ((number & 8) << 1))", "number"),
    ("halves of a byte are neighbours", "at // 16 * 32 + at % 16 + 16 * half", "2 * at + half"),
    ("a scale of another group", "(k // GROUP)[None, :]", "(at // GROUP)[None, :]"),
    ("bias before the scales", "* tl.load(weight_scale + n, mask=n < N, other=0.0)[None, :]", "+ 0"),
]


@pytest.fixture(autouse=True)
def interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels are called as they are; sequences are looked through four at a time."""
    for module in (attention, linears):
        _interpret(module)


def _interpret(module: ModuleType) -> None:
    module.wrap_triton = lambda kernel: kernel  # type: ignore[attr-defined]
    module._ROWS = 4  # type: ignore[attr-defined]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_numbers(case: Any) -> None:
    case.check(operator_of(case, attention, linears))


@pytest.mark.parametrize(("name", "right", "wrong"), FAULTS, ids=[name for name, *_ in FAULTS])
def test_a_fault_is_seen(name: str, right: str, wrong: str, tmp_path: Path) -> None:
    module = attention if right in inspect.getsource(attention) else linears
    kind = (Attention,) if module is attention else (Int8, WeightOnly)
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
    for case in CASES:
        if isinstance(case, kind):
            try:
                case.check(operator_of(case, faulty, faulty))
            except AssertionError:
                return
    pytest.fail(f"{name}: all cases pass")
