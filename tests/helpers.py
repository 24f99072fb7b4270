"""What every test of a pass asks: the graph it makes, the numbers of that graph, and its reasons to stay away."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from tests.small import apply, module, traced
from txgraph import Pass, PassContext, RewritePass
from txgraph.ir import Graph, interpret
from txgraph.rewrite import explain_rule
from txgraph.verify import check_gates, reference

FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
Function = Callable[..., Any]


def normal(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Seeded normal numbers; equal for equal shapes."""
    generator = torch.Generator().manual_seed(sum(size * 7**at for at, size in enumerate(shape)))
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def rewritten(
    rule: Pass, function: Function, *inputs: torch.Tensor, context: PassContext | None = None, **constants: torch.Tensor
) -> Graph:
    """What a pass makes of a function, which must be as good as eager; a second run finds nothing left to do."""
    graph = traced(function, *inputs, **constants)
    before = str(graph)
    after, _ = apply(rule, graph, context)
    assert str(graph) == before, "the given graph was changed"
    assert not apply(rule, after, context)[1], "a second run changed more"
    assert_numbers(after, function, *inputs, **constants)
    return after


def assert_numbers(graph: Graph, function: Function, *inputs: torch.Tensor, **constants: torch.Tensor) -> None:
    """The graph passes the gates against the function in eager and in float64."""
    truth = reference(module(function), (*inputs, *constants.values()), {})
    gates = check_gates(interpret(graph, [t.clone() for t in inputs]), truth.eager, truth.oracle)
    failed = [str(gate) for gate in gates if not gate.passed]
    assert not failed, failed


def reasons(
    rule: RewritePass,
    function: Function,
    *inputs: torch.Tensor,
    context: PassContext | None = None,
    **constants: torch.Tensor,
) -> list[str]:
    """Why a rule applies nowhere in a function, the nearest miss first."""
    graph = traced(function, *inputs, **constants)
    matches, misses = explain_rule(rule, graph, context or PassContext())
    assert not matches, matches
    assert not apply(rule, graph, context)[1], "rewritten, though nothing matches"
    return [miss.reason for miss in misses]
