"""CUDA graphs on the device: what the stand-in of ``tests/backends/test_cuda_graphs.py`` cannot know."""

from __future__ import annotations

import gc
import importlib.util
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

import txgraph
from tests.backends.cuda_models import bert, gpt2, llama
from tests.cuda import ON_GPU
from tests.cuda.test_models import DTYPES, batch
from tests.small import MLP, assert_as_eager, module
from tests.threads import in_threads
from txgraph.backends.tvm.lower import find_nvcc

pytestmark = ON_GPU

ON = {"cuda_graphs": True, "cache": False}
NO_TVM = importlib.util.find_spec("tvm") is None or not find_nvcc()
BACKENDS = ["inductor", pytest.param("tvm", marks=pytest.mark.skipif(NO_TVM, reason="no Apache TVM, or no nvcc"))]


def graph_launches(function: Callable[[], object]) -> int:
    """How many CUDA graphs a function launches."""
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    ) as p:
        function()
        torch.cuda.synchronize()
    return sum(event.name == "cudaGraphLaunch" for event in p.events())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("make", [bert, gpt2, llama])
def test_as_eager(make: Callable[[], nn.Module], dtype: torch.dtype, backend: str) -> None:
    torch.manual_seed(0)
    model = make().to("cuda", dtype)
    fast = txgraph.optimize(model, kwargs=batch((12, 9)), backend=backend, options=ON)
    assert not fast.report.fallbacks
    inputs = [batch(lengths) for lengths in ((12, 9), (12, 3), (5, 12))]
    for at, each in enumerate(inputs):
        each["input_ids"] = (each["input_ids"] + 7 * at) % 64
    outputs = [fast(**each) for each in inputs]  # the later ones must not write to the first
    for each, output in zip(inputs, outputs, strict=True):
        assert_as_eager(output, model, **each)
    assert graph_launches(lambda: fast(**inputs[0])) == 1


def test_sizes_that_vary() -> None:
    model = bert().cuda()
    fast = txgraph.optimize(model, options=ON)
    for lengths in ((12, 9), (17, 11, 14), (12, 9)):
        inputs = batch(lengths)
        assert_as_eager(fast(**inputs), model, **inputs)
    assert [fallback.reason.partition(": ")[0] for fallback in fast.report.fallbacks] == ["runs without a CUDA graph"]


def test_weights_that_change() -> None:
    model, x = MLP().cuda(), torch.randn(3, 4, device="cuda")
    fast = txgraph.optimize(model, args=(x,), options=ON)
    with torch.no_grad():
        model.up.weight.mul_(2)
    assert_as_eager(fast(x), model, x)
    model.up.weight.data = torch.randn_like(model.up.weight)
    assert_as_eager(fast(x), model, x)


@pytest.mark.parametrize("backend", BACKENDS)
def test_on_any_stream(backend: str) -> None:
    """Inputs are made on that stream just before, which takes long; outputs are read on it just after."""
    model = module(lambda x: x * 2 + 1)
    x = torch.randn(4096, 4096, device="cuda") / 64
    fast = txgraph.optimize(model, args=(x,), backend=backend, options=ON)
    expected = x @ x @ x * 2 + 1
    streams = [torch.cuda.Stream() for _ in range(3)]
    results = []
    for stream in streams:
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            results.append(fast(x @ x @ x))
    torch.cuda.synchronize()
    for result in results:
        torch.testing.assert_close(result, expected)


def test_by_several_threads() -> None:
    """Two models on two streams: they share a workspace of cuBLAS, and take turns."""
    models = [MLP(256).cuda(), MLP(512).cuda()]
    xs = [torch.randn(64, 4, device="cuda") for _ in range(20)]
    fasts = [txgraph.optimize(model, args=(xs[0],), options=ON) for model in models]
    with torch.no_grad():
        expected = [[model(x) for x in xs] for model in models]
    torch.cuda.synchronize()
    wrong: list[str] = []

    def calls(number: int) -> None:
        with torch.cuda.stream(torch.cuda.Stream()):
            for _ in range(20):
                outputs = [fasts[number % 2](x) for x in xs]
                torch.cuda.current_stream().synchronize()
                for output, wanted in zip(outputs, expected[number % 2], strict=True):
                    if not torch.allclose(output, wanted, rtol=1e-4, atol=1e-5):
                        wrong.append(f"thread {number}")

    assert in_threads(*(partial(calls, number) for number in range(4))) == [None] * 4
    assert not wrong


def test_in_and_out_of_inference_mode() -> None:
    model, x = MLP().cuda(), torch.randn(3, 4, device="cuda")
    fast = txgraph.optimize(model, options={**ON}, verify="off")
    with torch.inference_mode():
        fast(x)
    assert_as_eager(fast(x + 1), model, x + 1)


def test_outputs_are_overwritten_where_that_was_asked_for() -> None:
    model, x = MLP().cuda(), torch.randn(3, 4, device="cuda")
    fast = txgraph.optimize(model, args=(x,), options={**ON, "cuda_graphs": "overwrite"})
    first = fast(x)
    assert fast(x + 1).data_ptr() == first.data_ptr()
    assert_as_eager(first, model, x + 1)


def test_decoding() -> None:
    """The cache is written where it is; all steps but the first of a text replay."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"n_layer": 2, "n_embd": 64, "n_head": 4, "vocab_size": 100}
    model = GPT2LMHeadModel(GPT2Config(**sizes, eos_token_id=None, bos_token_id=None)).eval().cuda()
    fast = txgraph.optimize(model, options=ON)
    options = {"max_new_tokens": 20, "do_sample": False, "pad_token_id": 0}
    for first in (5, 30, 70):
        prompt = torch.tensor([[first, 17, 40]], device="cuda")
        assert torch.equal(fast.generate(prompt, **options), model.generate(prompt, **options))
    assert graph_launches(lambda: fast.generate(prompt, **options)) >= 18
    assert all("other memory" in fallback.reason for fallback in fast.report.fallbacks)  # of prompts


def test_what_cannot_be_recorded() -> None:
    """It runs as it is, the report says so, and torch's generators and allocator are as they were."""
    with torch.library._scoped_library("cuda_graph_test", "FRAGMENT") as library:
        library.define("asks(Tensor x) -> Tensor")
        library.impl("asks", lambda x: x + x.sum().item(), "CUDA")
        library.impl("asks", torch.empty_like, "Meta")
        model = module(lambda x: torch.sin(torch.ops.cuda_graph_test.asks(torch.cos(x))))
        x = torch.randn(3, 4, device="cuda")
        stream = torch.cuda.current_stream()
        fast = txgraph.optimize(model, args=(x,), options=ON)
        assert torch.cuda.current_stream() == stream
        assert_as_eager(fast(x), model, x)
    (fallback,) = fast.report.fallbacks
    assert "recording failed at " in fallback.reason
    assert "asks" in fallback.reason
    assert "captur" in fallback.reason
    assert torch.randn(1000, device="cuda").isfinite().all()
    other = MLP().cuda()
    fast = txgraph.optimize(other, args=(x,), options=ON)
    assert not fast.report.fallbacks
    assert_as_eager(fast(x), other, x)


def test_memory_is_given_back() -> None:
    model, x = MLP(4096).cuda(), torch.randn(4096, 4, device="cuda")

    def held() -> int:
        torch.cuda.synchronize()
        gc.collect()
        torch.cuda.empty_cache()
        return torch.cuda.memory_reserved()

    txgraph.optimize(model, args=(x,), options=ON)  # workspaces of libraries stay
    before = held()
    fast = txgraph.optimize(model, args=(x,), options=ON)
    fast(x)
    assert held() > before
    del fast
    assert held() == before
