"""What TVM generates for a GPU computes what eager does: it runs on a CPU, threads taking turns; see emulated_cuda.py.

Products and attention between it are torch's for CPUs. Each test runs threads in ascending and in descending order:
bits differ where one reads what another has not written yet.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.export import Dim
from torch.utils import _pytree as pytree

import txgraph
from tests.backends import emulated_cuda
from tests.backends.cuda_models import llama
from tests.backends.test_cuda import IDS, axes
from tests.backends.tvm_operators import SIZES, everything, inputs
from tests.small import assert_as_eager, bits, module
from txgraph.backends.tvm import lower
from txgraph.backends.tvm.code import Code

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("tvm") is None, reason="Apache TVM is not installed"),
    pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU: nothing is absent"),
]


@pytest.fixture
def emulated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What is compiled for a GPU runs on the CPU, instead of refusing; nvcc is not needed."""

    def load(code: Code, _: Any) -> dict[str, Callable[..., None]]:
        return emulated_cuda.load(code, tmp_path)

    monkeypatch.setattr(lower, "load", load)
    monkeypatch.setattr(lower, "find_nvcc", lambda: "")


def compiled(model: nn.Module, *args: torch.Tensor, **more: Any) -> txgraph.OptimizedModel:
    return txgraph.optimize(model, args, backend="tvm", target="cuda:sm_90", verify="off", **more)


def check(fast: txgraph.OptimizedModel, model: nn.Module, *args: Any, **kwargs: Any) -> None:
    """As eager in both orders of threads, in which all bits are equal."""
    first = fast(*args, **kwargs)
    assert_as_eager(first, model, *args, **kwargs)
    with emulated_cuda.descending():
        second = fast(*args, **kwargs)
    for one, other in zip(pytree.tree_leaves(first), pytree.tree_leaves(second), strict=True):
        assert torch.equal(bits(one), bits(other))


@pytest.mark.usefixtures("emulated")
def test_a_model() -> None:
    """Sizes vary; others were run by hand, see docs/cuda.md."""
    torch.manual_seed(0)
    model = llama().bfloat16()
    batch = {"input_ids": IDS, "attention_mask": (IDS < 20).long()}
    fast = compiled(model, kwargs=batch, dynamic_shapes=axes(batch))
    check(fast, model, **batch)
    ids = torch.arange(27).reshape(3, 9)
    check(fast, model, input_ids=ids, attention_mask=(ids < 25).long())
    assert len(fast.report.graphs) == 1
    assert fast.report.fallbacks == []


@pytest.mark.usefixtures("emulated")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_rows(dtype: torch.dtype) -> None:
    """Of one warp and several, with vectors and without, with threads that have nothing to do, and sums in the rows."""
    widths = (20, 64, 96, 768, 1100)

    def every(*rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
        results = []
        for x in rows:
            added = F.gelu(x) + x * 2
            results += [added, F.layer_norm(added, x.shape[-1:]), F.softmax(x - 1, -1), (x * x).mean(-1, keepdim=True)]
        return *results, F.softmax(rows[0] + 1, 1) + F.softmax(rows[0] * 3, -1)

    model = module(every)
    rows = [torch.randn(2, 3, width).to(dtype) for width in widths]
    fast = compiled(model, *rows, passes=txgraph.Pipeline())
    check(fast, model, *rows)
    code = fast.code()
    assert {int(n) for n in re.findall(r"__launch_bounds__\((\d+)\)", code)} >= {32, 96, 192, 256}
    assert ("(float4*)" if dtype is torch.float32 else "(half4*)") in code


@pytest.mark.usefixtures("emulated")
def test_operators() -> None:
    """All that test_tvm.py tries on CPUs, in one graph whose sizes vary."""
    model = module(everything)
    fast = compiled(model, *inputs(2, 4), dynamic_shapes=SIZES, passes=txgraph.Pipeline())
    check(fast, model, *inputs(3, 37))
    assert not re.findall(r"\b__\w+f\(", fast.code())  # such as __cosf, which is wrong for large angles


@pytest.mark.usefixtures("emulated")
@pytest.mark.parametrize(
    ("right", "wrong"),
    [("__syncthreads();", ""), (", 16, 32)", ", 8, 32)"), ("(int64_t)96", "(int64_t)95"), ("expf(", "exp2f(")],
    ids=["no barrier", "half a warp", "rows overlap", "another base"],
)
def test_wrong_kernels_are_noticed(right: str, wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    compile_source = emulated_cuda._compiled

    def changed(source: str, folder: Path) -> Path:
        if right not in source:  # no AssertionError: that is what a wrong kernel shall raise
            raise LookupError(right)
        return compile_source(source.replace(right, wrong), folder)

    monkeypatch.setattr(emulated_cuda, "_compiled", changed)
    model, x = module(lambda x: F.softmax(x * 2, -1)), torch.randn(5, 96)
    fast = compiled(model, x, dynamic_shapes={"x": {0: Dim.AUTO}})
    with pytest.raises(AssertionError):
        check(fast, model, x)
