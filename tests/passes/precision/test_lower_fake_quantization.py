from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tests.helpers import normal, rewritten
from tests.small import apply, traced
from txgraph import PassContext, Target
from txgraph.ir import Graph, arguments
from txgraph.ir.quantized import quantize_weight
from txgraph.passes import LowerFakeQuantization

OPS = torch.ops.txgraph
RULE = LowerFakeQuantization()
X, W, B, D = normal(2, 3, 64), normal(16, 64), normal(16), normal(64).abs() + 0.5


def int8(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor, d: torch.Tensor) -> torch.Tensor:
    return F.linear(OPS.fake_quantize_rows(x, d), OPS.fake_quantize_weight(w, d, 8, 0), b)


def node_of(graph: Graph, name: str) -> Any:
    (node,) = [n for n in graph.calls() if n.target is getattr(OPS, name).default]
    return node


def test_int8_linears_have_the_very_integers() -> None:
    graph = rewritten(RULE, int8, X, w=W, b=B, d=D)
    assert graph.count() == {"txgraph::quantize_rows": 1, "getitem": 3, "txgraph::int8_linears": 1}
    named = arguments(node_of(graph, "int8_linears"))
    values, scales = quantize_weight(W * D)
    assert graph.constants[str(named["weights"][0].target)].equal(values)
    assert graph.constants[str(named["weight_scales"][0].target)].equal(scales)
    assert graph.constants.origins([str(named["weights"][0].target)]) == {"w", "d"}


def test_a_transposed_weight() -> None:
    rewritten(
        RULE,
        lambda x, w: F.linear(OPS.fake_quantize_rows(x, None), OPS.fake_quantize_weight(w.transpose(0, 1), None, 8, 0)),
        X,
        w=normal(64, 16),
    )


@pytest.mark.parametrize(("bits", "group"), [(8, 0), (4, 32)])
def test_weights_alone(bits: int, group: int) -> None:
    graph = rewritten(RULE, lambda x, w: F.linear(x, OPS.fake_quantize_weight(w, None, bits, group)), X, w=W)
    assert graph.count() == {"txgraph::weight_only_linears": 1, "getitem": 1}


def test_the_activation_goes_inside() -> None:
    def function(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        fake = OPS.fake_quantize_weight(w, None, 8, 0)
        return OPS.linear_activation(OPS.fake_quantize_rows(x, None), fake, b, "gelu")

    graph = rewritten(RULE, function, X, w=W, b=B)
    assert arguments(node_of(graph, "int8_linears"))["activation"] == "gelu"


def test_linears_of_the_same_rows_are_one() -> None:
    def function(x: torch.Tensor, w: torch.Tensor, v: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, ...]:
        rows = OPS.fake_quantize_rows(x, None)
        first = F.linear(rows, OPS.fake_quantize_weight(w, None, 8, 0))
        return torch.sin(first), F.linear(rows, OPS.fake_quantize_weight(v, None, 8, 0), b)

    graph = rewritten(RULE, function, X, w=W, v=normal(24, 64), b=normal(24))
    assert graph.count()["txgraph::int8_linears"] == 1
    assert graph.count()["txgraph::quantize_rows"] == 1


def test_gpus_have_kernels_for_it_too() -> None:
    graph, _ = apply(RULE, traced(int8, X, w=W, b=B, d=D), PassContext(target=Target("cuda")))
    assert graph.count() == {"txgraph::quantize_rows": 1, "txgraph::int8_linears": 1, "getitem": 3}


def test_a_computed_weight_stays() -> None:
    graph, rewrites = apply(
        RULE, traced(lambda x, v, w: F.linear(x, OPS.fake_quantize_weight(w * v, None, 8, 0)), X, normal(16, 64), w=W)
    )
    assert not rewrites
    assert graph.count()["txgraph::fake_quantize_weight"] == 1


def test_a_weight_that_is_not_finite_stays() -> None:
    w = W.clone()
    w[3, 4] = torch.inf
    _, rewrites = apply(RULE, traced(int8, X, w=w, b=B, d=D))
    assert not rewrites
