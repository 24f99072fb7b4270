"""Quantized linears through the backends: our kernels, in layers, with sizes that vary."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.export import Dim

from tests.helpers import normal
from tests.small import apply, graph_of, traced
from txgraph import BackendOptions, PassContext, Target
from txgraph.backends.inductor import InductorBackend
from txgraph.backends.kernels.quantized import DEEPEST
from txgraph.backends.reference import ReferenceBackend
from txgraph.ir import Graph, interpret
from txgraph.ir.quantized import quantize_weight
from txgraph.passes import Int8, WeightOnly
from txgraph.passes.fuse.fuse_linear_activation import FuseLinearActivation
from txgraph.passes.fuse.fuse_shared_input_linears import FuseSharedInputLinears

CPU = Target("cpu")
KINDS = [Int8(), WeightOnly(bits=8), WeightOnly(bits=4)]
IDS = ["int8", "8-bit weights", "4-bit weights"]


class Layer(nn.Module):
    """Three linears of one input, with and without a bias, and two with an activation between them."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(64, 64, bias=bias) for bias in (True, False, True))
        self.up, self.down = nn.Linear(64, 96), nn.Linear(96, 64)
        self.norm = nn.LayerNorm(64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.tanh(self.q(x)) * self.k(x) + self.v(x)
        return self.norm(x + self.down(F.gelu(self.up(y))))


def quantized(kind: Int8 | WeightOnly, layers: int, **settings: Any) -> Graph:
    torch.manual_seed(0)
    graph = graph_of(nn.Sequential(*(Layer() for _ in range(layers))).eval(), normal(2, 5, 64), **settings)
    for rule in (FuseSharedInputLinears(), FuseLinearActivation(), kind):
        graph, rewrites = apply(rule, graph, PassContext(fused_activations=frozenset(("gelu",))))
        assert rewrites
    return graph


def assert_near(ours: torch.Tensor, expected: torch.Tensor) -> None:
    """But for the rounding of float32; and for few numbers that are rounded to the other of two int8 because of it."""
    error = (ours - expected).abs()
    assert error.median() < 1e-5
    assert error.max() < 0.02
    assert ours.shape == expected.shape


@pytest.mark.parametrize("kind", KINDS, ids=IDS)
@pytest.mark.parametrize("layers", [False, True], ids=["whole", "in layers"])
def test_they_are_computed_by_our_kernels(kind: Int8 | WeightOnly, layers: bool) -> None:
    graph = quantized(kind, 3)
    compiled = InductorBackend().lower(graph, CPU, BackendOptions(layers=layers))
    x = normal(2, 5, 64)
    (ours,), (expected,) = compiled.run([x]), interpret(graph, [x])
    assert_near(ours, expected)
    names = [kernel.name for kernel in compiled.kernels if kernel.name.startswith("txgraph.")]
    linear = "quantized" if isinstance(kind, Int8) else "weight_only"
    assert names == [f"txgraph.{linear}_linears_native"] * 9
    assert {kernel.kind for kernel in compiled.kernels} == {"generated", "txgraph"}
    (reference,) = ReferenceBackend().lower(graph, CPU, BackendOptions()).run([x])
    assert torch.equal(reference, expected)


@pytest.mark.parametrize("kind", KINDS, ids=IDS)
def test_sizes_that_vary(kind: Int8 | WeightOnly) -> None:
    graph = quantized(kind, 1, dynamic_shapes=({0: Dim("B"), 1: Dim("S")},))
    compiled = InductorBackend().lower(graph, CPU, BackendOptions())
    for batch, length in ((2, 5), (3, 1), (1, 1), (9, 13)):
        x = normal(batch, length, 64)
        (ours,), (expected,) = compiled.run([x]), interpret(graph, [x])
        assert_near(ours, expected)


def test_an_activation_that_the_kernel_lacks() -> None:
    def function(x: torch.Tensor, s: torch.Tensor, w: torch.Tensor, ws: torch.Tensor) -> Any:
        return torch.ops.txgraph.int8_linears(x, s, [w], [ws], [None], "tanh")

    x, scales = torch.ops.txgraph.quantize_rows(normal(4, 8), None)
    w, weight_scales = quantize_weight(normal(6, 8))
    graph = traced(function, x, scales, w=w, ws=weight_scales)
    (ours,) = InductorBackend().lower(graph, CPU, BackendOptions()).run([x, scales])
    torch.testing.assert_close(ours, interpret(graph, [x, scales])[0])


def test_what_has_no_kernel_is_said() -> None:
    graph = quantized(Int8(), 1)
    assert InductorBackend().unsupported(graph, CPU) == []

    wide = traced(lambda x: torch.ops.txgraph.quantize_rows(x, None), normal(4, 8).double())
    (line,) = InductorBackend().unsupported(wide, CPU)
    assert line.endswith("txgraph::quantize_rows has kernels for float32 only, %x is torch.float64")

    def deep(values: torch.Tensor, scales: torch.Tensor, w: torch.Tensor, ws: torch.Tensor) -> Any:
        return torch.ops.txgraph.int8_linears(values, scales, [w], [ws], [None], "")

    values = torch.ones(1, DEEPEST + 1, dtype=torch.int8)
    (line,) = InductorBackend().unsupported(traced(deep, values, torch.ones(1, 1), values, torch.ones(1)), CPU)
    assert line.endswith(f"txgraph::int8_linears sums at most {DEEPEST} products")


def test_rows_that_are_quantized_once_for_two() -> None:
    """They are not quantized on the way."""

    def function(x: torch.Tensor, w: torch.Tensor, s: torch.Tensor, d: torch.Tensor) -> Any:
        values, scales = torch.ops.txgraph.quantize_rows(x, d)
        first = torch.ops.txgraph.int8_linears(values, scales, [w], [s], [None], "")
        second = torch.ops.txgraph.int8_linears(values, scales, [w[:2]], [s[:2]], [None], "relu")
        return *first, *second, *torch.ops.txgraph.quantize_rows(x, None)

    w, scales = quantize_weight(normal(6, 8))
    graph = traced(function, normal(4, 8), w=w, s=scales, d=normal(8).exp())
    compiled = InductorBackend().lower(graph, CPU, BackendOptions())
    for ours, expected in zip(compiled.run([normal(4, 8)]), interpret(graph, [normal(4, 8)]), strict=True):
        torch.testing.assert_close(ours, expected)
    names = [kernel.name for kernel in compiled.kernels]
    assert names.count("txgraph.quantize_rows_native") == names.count("txgraph.int8_linears_native") == 2
