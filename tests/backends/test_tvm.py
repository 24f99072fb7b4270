"""The TVM backend: numbers, what is generated and what is called, weights that are not copied, kept graphs."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.export import Dim

import txgraph
from tests.backends.tvm_operators import SIZES, everything, inputs
from tests.small import MLP, Encoder, assert_as_eager, graph_of, module
from tests.zoo import OPTIONS, ZOO
from txgraph.backends.tvm import TvmBackend, launch
from txgraph.backends.tvm.regions import find_regions
from txgraph.backends.tvm.sizes import compute, symbols_of
from txgraph.ir import Graph, op_name
from txgraph.ir.kernel import without_kernel
from txgraph.options import BackendOptions, Target

needs_tvm = pytest.mark.skipif(importlib.util.find_spec("tvm") is None, reason="Apache TVM is not installed")
CPU = Target("cpu")


def optimized(model: nn.Module, *args: Any, **more: Any) -> txgraph.OptimizedModel:
    """Through TVM alone: nothing breaks a gate, and nothing is called that should be generated."""
    fast = txgraph.optimize(model, args=args, backend="tvm", **more)
    assert fast.report.fallbacks == []
    return fast


@needs_tvm
@pytest.mark.parametrize("name", ["bert-sdpa", "gpt2-sdpa", "llama-unmasked-sdpa", "t5-eager", "nn.TransformerEncoder"])
def test_models(name: str) -> None:
    """Judged on inputs that were not seen; two of them with dynamic sizes, too."""
    architecture = ZOO[name]
    model = architecture.model()
    shapes = ((2, 12), (3, 9)) if name in ("bert-sdpa", "llama-unmasked-sdpa") else ((2, 12),)
    fast = txgraph.optimize(model, backend="tvm", verify="final", options=OPTIONS)
    for shape in shapes:
        fast(**architecture.inputs(*shape))
    for shape in (*shapes, *(((5, 7),) if len(shapes) > 1 else ())):
        inputs = architecture.fresh(*shape)
        assert_as_eager(fast(**inputs), model, **inputs)
    assert fast.report.fallbacks == []
    assert len(fast.report.graphs) == len(shapes)
    assert "generated" in {kernel.kind for kernel in fast.kernels()}


@needs_tvm
@pytest.mark.parametrize("dynamic", [False, True])
def test_operators(dynamic: bool) -> None:
    """One graph of all: each result holds the gates, for sizes and numbers that were not seen."""

    model = module(everything)
    fast = optimized(model, *inputs(2, 4), dynamic_shapes=SIZES if dynamic else None, passes=txgraph.Pipeline())
    called = {kernel.name for kernel in fast.kernels() if kernel.kind != "generated"}
    assert called <= {"getitem", "aten.sym_size", "aten.matmul", *VIEWED}, called
    given = inputs(3, 37) if dynamic else inputs(2, 4)
    assert_as_eager(fast(*given), model, *given)


VIEWED = {f"aten.{name}" for name in ("slice", "transpose", "unsqueeze", "permute", "reshape", "arange", "select")}


@needs_tvm
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_dtypes(dtype: torch.dtype) -> None:
    model = Encoder().to(dtype)
    ids = torch.randint(0, 100, (2, 8))
    assert_as_eager(optimized(model, ids)(ids), model, ids)


@needs_tvm
def test_inputs_lie_as_they_like() -> None:
    """Transposed, cut out, and not where vectors begin; nothing reads beside them."""
    model = module(lambda x, y: F.silu(x.transpose(1, 2)[..., 1:]) * y)
    fast = optimized(model, torch.randn(2, 33, 16), torch.randn(2, 16, 32))
    memory = torch.randn(2 * 33 * 16 + 1)
    x, y = memory[1:].view(2, 33, 16), torch.randn(2, 32, 16).transpose(1, 2)
    assert_as_eager(fast(x, y), model, x, y)
    assert fast(x, y).stride() == model(x, y).stride()


@needs_tvm
def test_an_operator_without_converter_is_called_and_counted() -> None:
    class Sums(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cumsum(x + 1, -1) * 2

    model, x = Sums(), torch.randn(3, 8)
    fast = txgraph.optimize(model, args=(x,), backend="tvm")
    (fallback,) = fast.report.fallbacks
    assert "cumsum of f32 is called one by one (1 of them): %cumsum" in fallback.reason
    assert "test_tvm.py" in fallback.reason
    assert_as_eager(fast(x), model, x)
    assert [k.kind for k in fast.kernels() if k.kind != "generated" and k.name != "getitem"] == ["interpreted"]


def test_without_tvm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(txgraph.BackendFailed, match=r'pip install "txgraph\[tvm\]"'):
        txgraph.optimize(MLP(), args=(torch.ones(2, 4),), backend="tvm")


@needs_tvm
def test_weights_are_the_models_own() -> None:
    model = Encoder(width=64)
    ids = torch.randint(0, 100, (2, 8))
    fast = optimized(model, ids)
    with torch.no_grad():
        model.norm1.weight.mul_(2)  # a generated kernel reads it, and nothing was folded
        model.out.weight.mul_(2)
    assert_as_eager(fast(ids), model, ids)
    assert len(fast.report.graphs) == 1


@needs_tvm
def test_what_a_model_writes_is_written() -> None:
    class Counter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("seen", torch.zeros(4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.seen.add_(x.sum(0))
            return x * self.seen

    model, x = Counter(), torch.randn(3, 4)
    fast = optimized(model, x)
    before = model.seen.clone()
    torch.testing.assert_close(fast(x), x * (before + x.sum(0)))
    torch.testing.assert_close(model.seen, before + x.sum(0))


@needs_tvm
def test_equal_regions_share_one_function_and_kernels_name_their_operators() -> None:
    fast = optimized(Encoder(), torch.randint(0, 100, (2, 8)))
    generated = [kernel for kernel in fast.kernels() if kernel.kind == "generated"]
    norms = [kernel for kernel in generated if any(name.startswith("layer_norm") for name in kernel.nodes)]
    assert len(norms) == 2
    assert len({kernel.code for kernel in norms}) == 1
    assert all(f"def {kernel.name}(" in kernel.code and kernel.code in fast.code() for kernel in generated)
    assert set(without_kernel(fast.graph_after, fast.kernels()).values()) <= {"item", "view", "size"}


@needs_tvm
def test_large_loops_are_parallel_and_in_vectors() -> None:
    model = module(lambda x: F.softmax(x * 2 + 1, -1))
    large, small = (optimized(model, torch.randn(rows, 256)).code() for rows in (256, 2))
    assert "T.parallel" in large
    assert "T.vectorized" in large
    assert "T.parallel" not in small


@needs_tvm
def test_a_kept_graph_runs_again() -> None:
    graph = graph_of(Encoder(), torch.randint(0, 100, (2, 8)))
    backend, ids = TvmBackend(), torch.randint(0, 100, (2, 8))
    made = backend.lower(graph, CPU, BackendOptions())
    assert made.keep is not None
    again = backend.restore(made.keep())
    for first, second in zip(made.run([ids]), again.run([ids]), strict=True):
        assert torch.equal(first, second)


def test_regions_are_convex() -> None:
    """What a linear stands between is not one kernel, however connected it is beside it."""
    weight = nn.Linear(4, 4, bias=False)

    def function(x: torch.Tensor) -> torch.Tensor:
        first = (x + 1) * 2
        return first * 3 + weight(first).abs() + 1

    graph = graph_of(module(function, weight=weight), torch.ones(2, 4))
    assert _names(graph, lambda node: op_name(node) != "linear") == [["add", "mul", "mul"], ["abs", "add", "add"]]


def _names(graph: Graph, converts: Callable[[Any], bool]) -> list[list[str]]:
    return [sorted(map(op_name, region.nodes)) for region in find_regions(graph, converts)]


def test_sizes_are_computed_from_their_symbols() -> None:
    sizes = {0: Dim("batch", min=2, max=8)}
    graph = graph_of(module(lambda x: torch.cat([x, x]) + 1), torch.ones(3, 4), dynamic_shapes={"x": sizes})
    (size, _) = graph.outputs[0].meta["val"].shape
    (symbol,) = symbols_of([size])
    assert compute(size, {symbol: 5}) == 10


@needs_tvm
def test_a_wrong_kernel_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that takes the steps of an input for others breaks a gate, and is not used."""
    original = launch._memory

    def wrong(tensor: torch.Tensor, plain: bool, strides: list[int]) -> torch.Tensor:
        memory = original(tensor, plain, strides)
        strides[-2:] = reversed(strides[-2:])
        return memory

    monkeypatch.setattr(launch, "_memory", wrong)
    model, x = module(lambda x: F.silu(x.permute(2, 0, 1)[1:]) + 1), torch.randn(4, 5, 6)
    fast = txgraph.optimize(model, args=(x,), backend="tvm", options={"cache": False})
    assert "broke a gate" in fast.report.fallbacks[-1].reason
    assert_as_eager(fast(x), model, x)
