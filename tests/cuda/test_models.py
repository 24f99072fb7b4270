"""Whole models on the device, through the gates: each stage is checked against eager and float64 there."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

import txgraph
from tests.backends.cuda_models import bert, gpt2, llama
from tests.cuda import ON_GPU
from tests.small import MLP, apply, assert_as_eager, graph_of
from txgraph import BackendOptions, Target
from txgraph.backends.inductor import InductorBackend
from txgraph.ir import interpret
from txgraph.passes import Int8, WeightOnly

pytestmark = ON_GPU

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
MODELS: list[Callable[[], nn.Module]] = [bert, gpt2, llama]


def batch(lengths: tuple[int, ...]) -> dict[str, torch.Tensor]:
    """Token numbers and a mask, on the GPU."""
    places = torch.arange(max(lengths))
    mask = (places < torch.tensor(lengths)[:, None]).long()
    ids = torch.arange(mask.numel()).view(mask.shape) % 64
    return {"input_ids": ids.cuda(), "attention_mask": mask.cuda()}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("make", MODELS)
def test_as_eager(make: Callable[[], nn.Module], dtype: torch.dtype) -> None:
    """The first shape, and sizes that vary."""
    torch.manual_seed(0)
    model = make().to("cuda", dtype)
    fast = txgraph.optimize(model, backend="inductor")
    for lengths in ((12, 9), (17, 11, 14), (20, 18, 19, 20)):
        inputs = batch(lengths)
        assert_as_eager(fast(**inputs), model, **inputs)
    assert not fast.report.fallbacks
    assert not [name for name in ("_native", "cpp_fused") if f"ops.txgraph.{name}" in fast.code()]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_padding_is_removed(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = bert().to("cuda", dtype)
    fast = txgraph.optimize(model, kwargs=batch((20, 3, 1, 9)), padding="zeros", backend="inductor")
    assert [kernel.name for kernel in fast.kernels() if kernel.kind == "txgraph"] == ["txgraph_ragged_attention_0"]
    for lengths in ((20, 3, 1, 9), (20, 12, 4, 5)):
        inputs = batch(lengths)
        ours = fast(**inputs).last_hidden_state
        with torch.no_grad():
            expected = model(**inputs).last_hidden_state * inputs["attention_mask"][:, :, None]
        tolerance = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 6e-2}[dtype]  # some last bits
        torch.testing.assert_close(ours, expected, rtol=tolerance, atol=tolerance)
    assert not fast.report.fallbacks


@pytest.mark.parametrize("rule", [Int8(), WeightOnly(bits=8), WeightOnly(bits=4)], ids=lambda rule: rule.label)
@pytest.mark.parametrize("rows", [1, 5, 64])
def test_quantized_linears(rule: Int8 | WeightOnly, rows: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(256, 512), nn.GELU(), nn.Linear(512, 256)).eval().cuda()
    x = torch.randn(rows, 256, device="cuda")
    graph, _ = apply(rule, graph_of(model, x))
    compiled = InductorBackend().lower(graph, Target("cuda"), BackendOptions())
    assert [kernel.kind for kernel in compiled.kernels].count("txgraph") == 2
    (ours,), (expected,) = compiled.run([x]), interpret(graph, [x])
    error = (ours - expected).abs()  # numbers that are rounded to the other of two int8, of an error in the last bit
    assert error.median() < 1e-5
    assert error.max() < 0.02


def test_time_is_that_of_the_device() -> None:
    """However long the launch itself takes."""
    model, x = MLP().cuda(), torch.randn(256, 4, device="cuda")
    fast = txgraph.optimize(model, args=(x,), backend="inductor")
    profile = fast.profile(x, calls=5)
    assert profile.device == "cuda"
    assert tuple(launch.kernel for launch in profile.launches) == fast.kernels()
    assert all(launch.seconds > 0 for launch in profile.launches)
    assert sum(launch.seconds for launch in profile.launches) < profile.seconds
