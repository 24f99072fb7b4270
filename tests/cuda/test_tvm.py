"""TVM on the device: the fatbin is loaded by its runtime, and launched on the stream that torch uses."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import txgraph
from tests.backends.cuda_models import bert, gpt2, llama
from tests.cuda import ON_GPU
from tests.cuda.test_models import DTYPES, batch
from tests.small import assert_as_eager, graph_of, module
from txgraph import BackendOptions, Target
from txgraph.backends.tvm import TvmBackend
from txgraph.backends.tvm.lower import find_nvcc

pytestmark = [
    *ON_GPU,
    pytest.mark.skipif(importlib.util.find_spec("tvm") is None, reason="Apache TVM is not installed"),
    pytest.mark.skipif(not find_nvcc(), reason="CUDA's compiler nvcc is not here"),
]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("make", [bert, gpt2, llama])
def test_as_eager(make: Callable[[], nn.Module], dtype: torch.dtype) -> None:
    """The first shape, and sizes that vary."""
    torch.manual_seed(0)
    model = make().to("cuda", dtype)
    fast = txgraph.optimize(model, backend="tvm")
    for lengths in ((12, 9), (17, 11, 14), (20, 18, 19, 20)):
        inputs = batch(lengths)
        assert_as_eager(fast(**inputs), model, **inputs)
    assert not fast.report.fallbacks
    assert "generated" in {kernel.kind for kernel in fast.kernels()}


@pytest.mark.parametrize("width", [20, 64, 768, 1100, 4096])
def test_rows(width: int) -> None:
    model = module(lambda x: (F.layer_norm(F.gelu(x) + x, (width,)), F.softmax(x, -1), F.softmax(x, 1)))
    x = torch.randn(3, 5, width, device="cuda")
    fast = txgraph.optimize(model, args=(x,), backend="tvm")
    assert_as_eager(fast(x), model, x)
    odd = torch.randn(3 * 5 * width + 1, device="cuda")[1:].view(3, 5, width)  # not where vectors begin
    assert_as_eager(fast(odd), model, odd)


def test_launches_on_torchs_stream() -> None:
    """What it reads was made on that stream just before, and takes long to make."""
    model = module(lambda x: x * 2 + 1)
    x = torch.randn(4096, 4096, device="cuda")
    fast = txgraph.optimize(model, args=(x,), backend="tvm")
    expected = x @ x @ x * 2 + 1
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        result = fast(x @ x @ x)
    stream.synchronize()
    torch.testing.assert_close(result, expected)


def test_a_kept_graph_runs_again() -> None:
    x = torch.randn(4, 64, device="cuda")
    graph = graph_of(module(lambda x: F.softmax(x * 2, -1)), x)
    backend = TvmBackend()
    made = backend.lower(graph, Target("cuda"), BackendOptions())
    assert made.keep is not None
    (first,), (second,) = made.run([x]), backend.restore(made.keep()).run([x])
    assert torch.equal(first, second)
