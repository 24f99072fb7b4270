"""Attention with capped scores, lowered: FlexAttention where it fits, the definition elsewhere; right either way."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch.export import Dim

from tests.helpers import normal
from tests.small import graph_of, module, traced
from txgraph.backends.inductor import InductorBackend, softcap
from txgraph.backends.inductor.softcap import inline_softcap
from txgraph.ir import Graph, interpret
from txgraph.options import BackendOptions, Target
from txgraph.verify import check_gates, reference

Tensor = torch.Tensor
CPU = Target("cpu")
SOFTCAP = "txgraph::softcap_attention"
Q, K, V = normal(2, 4, 12, 8), normal(2, 4, 20, 8), normal(2, 4, 20, 6)
HIDDEN = normal(2, 1, 12, 20) > 1


def capped(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    result: Tensor = torch.ops.txgraph.softcap_attention(q, k, v, mask, 0.3, 5.0)
    return result


@pytest.fixture(autouse=True)
def _short_sequences_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(softcap, "FEWEST_SCORES", 0)


def assert_lowered(function: Callable[..., Tensor], *inputs: Tensor, flex: bool) -> None:
    graph = traced(function, *inputs)
    before = str(graph)
    compiled = InductorBackend().lower(graph, CPU, BackendOptions())
    assert str(graph) == before
    truth = reference(module(function), inputs, {})
    failed = [str(g) for g in check_gates(compiled.run(list(inputs)), truth.eager, truth.oracle) if not g.passed]
    assert not failed, failed
    assert ("flex_attention" in compiled.code) is flex


MASKS: dict[str, Tensor] = {
    "additive": torch.zeros(2, 1, 12, 20).masked_fill(HIDDEN, -math.inf),
    "of every head": normal(2, 4, 12, 20),
    "of two axes": normal(12, 20),
    "of keys": normal(2, 1, 1, 20),
    "boolean": ~HIDDEN,
    "hides a row": torch.zeros(12, 20).index_fill(0, torch.tensor(3), -math.inf),
}


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS.keys())
def test_masks(mask: Tensor) -> None:
    assert_lowered(capped, Q, K, V, mask, flex=True)


def test_without_a_mask() -> None:
    assert_lowered(lambda q, k, v: capped(q, k, v), Q, K, V, flex=True)


def test_one_tensor_for_all_operands() -> None:
    assert_lowered(lambda q: capped(q, q, q), Q, flex=True)


def test_operands_and_masks_that_the_graph_computes() -> None:
    def function(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        once = capped(q.sin(), k[:, :2, None].expand(2, 2, 2, 20, 8).reshape(2, 4, 20, 8), v, mask * 2)
        return once + capped(q, k, v.transpose(1, 2).cos().transpose(1, 2), mask * 2) + capped(q, k, v, mask)

    assert_lowered(function, Q, K, V, normal(12, 20), flex=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_dtypes(dtype: torch.dtype) -> None:
    inputs = (t.to(dtype) for t in (Q, K, V, normal(12, 20)))
    assert_lowered(capped, *inputs, flex=dtype is not torch.float64)


@pytest.mark.parametrize("mask", [None, normal(12, 20), normal(12, 20) > 0], ids=["none", "additive", "boolean"])
def test_three_axes(mask: Tensor | None) -> None:
    function = capped if mask is not None else lambda q, k, v: capped(q, k, v)
    assert_lowered(function, Q[0], K[0], V[0], *([] if mask is None else [mask]), flex=False)


def test_sizes_that_vary() -> None:
    shapes = ({2: Dim("S")}, {2: Dim("T")}, {2: Dim("T")})
    graph = graph_of(lambda q, k, v: capped(q, k, v), Q, K, V, dynamic_shapes=shapes)
    compiled = InductorBackend().lower(graph, CPU, BackendOptions())
    assert "flex_attention" not in compiled.code
    for s, t in ((12, 20), (3, 50)):
        inputs = [normal(2, 4, s, 8), normal(2, 4, t, 8), normal(2, 4, t, 6)]
        torch.testing.assert_close(compiled.run(inputs)[0], capped(*inputs))


def test_other_targets_get_the_definition() -> None:
    graph: Graph = traced(capped, Q, K, V, normal(12, 20))
    inline_softcap(graph, Target("cuda"))
    assert SOFTCAP not in graph.count()
    assert {"matmul": 2, "tanh": 1}.items() <= graph.count().items()
    inputs = [Q, K, V, normal(12, 20)]
    torch.testing.assert_close(interpret(graph, inputs)[0], capped(*inputs))


def test_without_any_the_graph_stays_as_it_is() -> None:
    graph = traced(lambda x: x.sin(), Q)
    inline_softcap(graph, CPU)
    assert graph.count() == {"sin": 1}


@pytest.mark.parametrize(("tokens", "flex"), [(1024, True), (1000, False)])
def test_long_sequences_alone(tokens: int, flex: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    q, k, v = (normal(1, 1, tokens, 8) for _ in range(3))
    assert_lowered(lambda q, k, v: capped(q, k, v), q, k, v, flex=flex)
