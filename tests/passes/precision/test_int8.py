"""Linears in int8: rows quantized once, outliers migrated."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from tests.helpers import normal
from tests.lossy.models import applied, observed
from txgraph.ir import interpret
from txgraph.passes.precision.int8 import Int8

X, W = normal(2, 5, 64), normal(32, 64)


def test_rows_are_quantized_once_for_all_linears_of_one_input() -> None:
    graph, _ = applied(Int8(), lambda x, w, v: torch.ops.txgraph.linears(x, [w, v], [None, None]), X, w=W, v=W * 2)
    assert graph.count()["txgraph::quantize_rows"] == 1
    assert graph.count()["txgraph::int8_linears"] == 1


def test_a_weight_stored_by_columns() -> None:
    graph, rewrites = applied(Int8(), lambda x, w: F.linear(x, w.transpose(0, 1)), X, w=W.t().contiguous())
    assert len(rewrites) == 1
    exact = F.linear(X, W)
    assert float((interpret(graph, [X])[0] - exact).norm() / exact.norm()) < 0.02


def test_migration_makes_outliers_cost_less() -> None:
    """One channel in a hundred is a hundred times larger, as in language models."""
    x = X.clone()
    x[..., 3] *= 100
    exact = F.linear(x, W)
    errors = {}
    for migration in (0.0, 0.5):
        graph, _ = applied(Int8(migration=migration), lambda x, w: F.linear(x, w), x, observed(x), w=W)
        errors[migration] = float((interpret(graph, [x])[0] - exact)[..., :].norm() / exact.norm())
        assert ("divisor" in str(graph)) is (migration > 0)
    assert errors[0.5] < 0.6 * errors[0.0]
