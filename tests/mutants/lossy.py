"""Faults in what is done under a budget: the budget, or the check of what was compiled, leaves the rewrite out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.fx import Node

import txgraph
from tests.mutants.edits import numbers
from tests.mutants.mutant import Fault, Mutant, Scenario, Twins
from txgraph.backends.kernels import attention
from txgraph.ir import GraphBuilder
from txgraph.passes import ThresholdAttention

Tensor = torch.Tensor


class _Peaked(nn.Module):
    """Causal attention of 256 queries, each to few keys."""

    def forward(self, x: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(x * 4, x, x, is_causal=True)


def _spent(backend: str) -> Callable[[Twins], None]:
    """The one attention is rewritten, with an honest product."""

    def steps(twins: Twins) -> None:
        data = [x.reshape(1, 2, 256, 16) for x in numbers(*[(512, 16)] * 4)]
        fast = txgraph.optimize(
            twins.original,
            (data[0],),
            passes=txgraph.default_pipeline().append(ThresholdAttention(threshold=0.01)),
            calibration=data,
            budget=txgraph.Budget(relative_error=0.1),
            backend=backend,
        )
        assert fast.report.budget is not None, "it was asked for"
        twins.expect("rewrites within the budget", len(fast.report.budget.spent), 1)

    return steps


def _all_keys(original: Callable[..., Node], each: ThresholdAttention, node: Node, g: GraphBuilder) -> Node:
    made = original(each, node, g)
    made.args = (*made.args[:4], False, *made.args[5:])
    return made


def _higher(original: Callable[..., None], *args: Any, threshold: float = 0.0, **options: Any) -> None:
    original(*args, threshold=min(threshold * 5, 0.5), **options)


BUDGETS = (
    Mutant(
        "threshold without causal",
        "attention above a threshold sees later keys, too",
        Fault(ThresholdAttention, "put", _all_keys),
        Scenario("attention above a threshold", _Peaked, _spent("reference")),
    ),
    Mutant(
        "a kernel with a threshold of its own",
        "the kernel leaves out five times as much",
        Fault(attention, "_run", _higher),
        Scenario("attention above a threshold, compiled", _Peaked, _spent("inductor")),
    ),
)
