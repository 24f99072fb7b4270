"""Predicted seconds on a made-up machine, by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from tests.small import Encoder, graph_of, traced
from txgraph.cost import CostModel, Hardware, bytes_moved, flops
from txgraph.ir import Graph

MACHINE = Hardware(
    "toy", {torch.float32: 1000.0, torch.bfloat16: 4000.0}, bandwidth=100.0, launch_seconds=0.5, source="made up"
)
X, W = torch.ones(2, 3, 8), torch.ones(5, 8)
LINEAR_FLOPS, LINEAR_BYTES = 2 * 6 * 8 * 5, (48 + 40 + 30) * 4


def linear(dtype: torch.dtype = torch.float32) -> Graph:
    return traced(lambda x, w: F.linear(x, w), X.to(dtype), W.to(dtype))


def test_memory_bound() -> None:
    model, nodes = CostModel(MACHINE), linear().calls()
    assert LINEAR_BYTES / 100 > LINEAR_FLOPS / 1000
    assert model.seconds(nodes) == pytest.approx(LINEAR_BYTES / 100 + 0.5)
    assert [kernel.bound for kernel in model.kernels(nodes)] == ["memory"]


def test_compute_bound() -> None:
    model, nodes = CostModel(replace(MACHINE, bandwidth=1e6, launch_seconds=0.1)), linear().calls()
    assert model.seconds(nodes) == pytest.approx(LINEAR_FLOPS / 1000 + 0.1)
    assert [kernel.bound for kernel in model.kernels(nodes)] == ["compute"]


def test_launch_bound() -> None:
    model, nodes = CostModel(replace(MACHINE, launch_seconds=99.0)), linear().calls()
    assert model.seconds(nodes) == pytest.approx(LINEAR_BYTES / 100 + 99)
    assert [kernel.bound for kernel in model.kernels(nodes)] == ["launch"]


@pytest.mark.parametrize(("dtype", "peak"), [(torch.bfloat16, 4000), (torch.float64, 500), (torch.float16, 1000)])
def test_the_peak_is_that_of_the_dtype(dtype: torch.dtype, peak: float) -> None:
    model = CostModel(replace(MACHINE, bandwidth=1e9))
    assert model.seconds(linear(dtype).calls()) == pytest.approx(LINEAR_FLOPS / peak + 0.5, rel=1e-4)


def test_a_lookup_is_computed_in_the_dtype_of_its_table() -> None:
    graph = traced(lambda i, t: F.embedding(i, t), torch.ones(3, dtype=torch.long), torch.ones(9, 8).bfloat16())
    (kernel,) = CostModel(MACHINE).kernels(graph.calls())
    assert kernel.compute_seconds == pytest.approx(3 * 8 / 4000)


def test_views_take_no_time() -> None:
    graph = traced(lambda x: x.transpose(0, 1).unsqueeze(0), X)
    for fuses in (False, True):
        assert CostModel(MACHINE, fuses).seconds(graph.nodes) == 0
        assert CostModel(MACHINE, fuses).seconds([]) == 0


def test_a_fused_component_costs_less_than_its_operators() -> None:
    nodes = traced(lambda x, y: torch.relu(x * 2) + y, X, X).calls()
    separate, fused = CostModel(MACHINE), CostModel(MACHINE, fuses_elementwise=True)
    assert separate.seconds(nodes) == pytest.approx((2 + 2 + 3) * 48 * 4 / 100 + 3 * 0.5)
    assert fused.seconds(nodes) == pytest.approx(3 * 48 * 4 / 100 + 0.5)


def test_a_value_that_is_used_outside_is_written_by_a_fused_kernel() -> None:
    nodes = traced(lambda x: (h := torch.relu(x), h * 2), X).calls()
    (kernel,) = CostModel(MACHINE, fuses_elementwise=True).kernels(nodes)
    assert kernel.bytes == 3 * 48 * 4


def test_fused_operators_add_their_work_in_their_own_dtypes() -> None:
    nodes = traced(lambda x: torch.relu(x).to(torch.bfloat16) * 2, X).calls()
    (kernel,) = CostModel(MACHINE, fuses_elementwise=True).kernels(nodes)
    assert kernel.flops == 3 * 48
    assert kernel.compute_seconds == pytest.approx(48 / 1000 + 48 / 1000 + 48 / 4000)


def test_fusing_saves_bytes_and_launches_but_no_work() -> None:
    graph = graph_of(Encoder(), torch.zeros(2, 8, dtype=torch.long))
    separate = CostModel(MACHINE).kernels(graph.calls())
    fused = CostModel(MACHINE, fuses_elementwise=True).kernels(graph.calls())
    assert len(fused) < len(separate)
    assert sum(k.bytes for k in fused) < sum(k.bytes for k in separate)
    assert sum(k.flops for k in fused) == sum(k.flops for k in separate) == sum(map(flops, graph.nodes))
    assert sum(k.bytes for k in separate) == sum(map(bytes_moved, graph.nodes))


def test_a_rewrite_can_be_weighed() -> None:
    one = traced(lambda x, w: torch.ops.txgraph.linear_activation(x, w, None, "relu"), X, W)
    two = traced(lambda x, w: torch.relu(F.linear(x, w)), X, W)
    model = CostModel(MACHINE, fuses_elementwise=True)
    assert model.seconds(two.calls()) - model.seconds(one.calls()) == pytest.approx(0.5 + 2 * 30 * 4 / 100)


def test_explain_has_a_line_for_each_kernel_and_the_sum() -> None:
    nodes = traced(lambda x, w: torch.relu(F.linear(x, w)) * 2, X, W).calls()
    first, second, total = CostModel(MACHINE, fuses_elementwise=True).explain(nodes).splitlines()
    assert first.split() == ["480", "FLOP", "472", "B", "5220000.00", "us", "memory", "linear"]
    assert second.split() == ["60", "FLOP", "240", "B", "2900000.00", "us", "memory", "relu", "+", "mul"]
    assert total == "8120000.00 us in 2 kernels on toy"


def test_a_cost_model_is_a_value() -> None:
    assert CostModel(MACHINE) == CostModel(MACHINE) != CostModel(MACHINE, True)
    assert hash(CostModel(MACHINE)) == hash(CostModel(MACHINE))
