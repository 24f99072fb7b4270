"""Weights in 8 or 4 bits: as their operator defines them, and by the calibration nearer than by themselves."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tests.helpers import normal
from tests.lossy.models import applied, observed
from txgraph.ir import interpret
from txgraph.ir.quantized import dequantize_weight_grouped
from txgraph.passes.precision.weight_only import WeightOnly

Tensor = torch.Tensor
X, W = normal(2, 5, 64), normal(32, 64)


def linear(x: Tensor, w: Tensor) -> Tensor:
    return F.linear(x, w)


@pytest.mark.parametrize(("bits", "group", "scales"), [(8, 32, (32, 1)), (4, 32, (32, 2)), (4, 64, (32, 1))])
def test_is_a_linear_of_what_is_kept(bits: int, group: int, scales: tuple[int, int]) -> None:
    graph, _ = applied(WeightOnly(bits=bits, group=group), linear, X, w=W)
    assert graph.count()["txgraph::weight_only_linears"] == 1
    kept = {name.removeprefix("w_"): tensor for name, tensor in graph.constants.items()}
    assert kept[f"int{bits}_0"].nbytes == 32 * 64 * bits // 8
    assert tuple(kept["scales_0"].shape) == scales
    full = dequantize_weight_grouped(kept[f"int{bits}_0"], kept["scales_0"], bits, group)
    torch.testing.assert_close(interpret(graph, [X])[0], F.linear(X, full), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bits", [8, 4])
def test_a_calibration_brings_it_nearer(bits: int) -> None:
    """On inputs that are correlated."""
    x = normal(500, 8) @ normal(64, 8).T + 0.1 * normal(500, 64)
    errors = []
    for seen in (observed(x), None):
        graph, _ = applied(WeightOnly(bits=bits), linear, x, seen, w=W)
        errors.append(float((interpret(graph, [x])[0] - F.linear(x, W)).norm()))
    assert errors[0] < 0.6 * errors[1]
