"""Whatever steps lie between product and softmax: they are ``product * scale + mask``, or there is a reason."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import permutations

import pytest
import torch
from torch.fx import Node

from tests.helpers import normal
from tests.small import find, traced
from txgraph.ir import Graph, GraphBuilder, interpret, type_of
from txgraph.ir.bounds import ValueBounds
from txgraph.ir.index_expressions import IndexExpressions
from txgraph.passes.fuse.attention_scores import (
    LARGEST_SCORE,
    MaskBuilder,
    chain_of_steps,
    check_steps,
    factor_of,
    may_hide_a_row,
    may_lose_nan,
    scale_of,
)
from txgraph.rewrite import PatternFactory
from txgraph.rewrite.pattern import Failure, State, Step

Tensor = torch.Tensor
Scores = Callable[[Tensor, Tensor, Tensor], Tensor]  # of the product, an additive mask and what is hidden

Q, K = normal(2, 3, 5, 8), normal(2, 3, 7, 8)
MASK, HIDDEN = normal(5, 7), normal(2, 1, 5, 7) > 1
LOWEST = torch.finfo(torch.float32).min

STEPS: dict[str, Scores] = {
    "scale": lambda s, m, h: s * 0.25,
    "divide": lambda s, m, h: s / 2,
    "mask": lambda s, m, h: s + m,
    "fill with -inf": lambda s, m, h: s.masked_fill(h, -math.inf),
    "fill with the lowest": lambda s, m, h: s.masked_fill(h, LOWEST),
    "fill others": lambda s, m, h: s.masked_fill(m > 1.5, -math.inf),
}


def graph_and_steps(scores: Scores, q: Tensor = Q, k: Tensor = K) -> tuple[Graph, tuple[Step, ...]]:
    """The graph of the scores' softmax, and the steps that the pattern finds in it."""
    graph = traced(lambda q, k, m, h: scores(q @ k.transpose(-2, -1), m, h).softmax(-1), q, k, MASK, HIDDEN)
    p = PatternFactory()
    pattern = chain_of_steps(p, p.aten.matmul(p.any("q"), p.any("kt"), name="product"))
    (root,) = find(graph, "softmax").all_input_nodes
    state = next(iter(pattern.match(root, State(), Failure())))
    return graph, state.bound["steps"]


def verdict(scores: Scores) -> str:
    """Why the steps are refused; empty if they are not."""
    graph, steps = graph_and_steps(scores)
    rejected = check_steps(steps, torch.float32, ValueBounds(graph, LARGEST_SCORE))
    return "" if rejected is None else rejected.reason


def chained(names: Sequence[str]) -> Scores:
    def scores(s: Tensor, m: Tensor, h: Tensor) -> Tensor:
        for name in names:
            s = STEPS[name](s, m, h)
        return s

    return scores


ORDERS = [order for length in range(4) for order in permutations(STEPS, length)]


@pytest.mark.parametrize("order", ORDERS, ids=" then ".join)
def test_accepted_steps_are_a_scale_and_a_mask(order: tuple[str, ...]) -> None:
    scores = chained(order)
    graph, steps = graph_and_steps(scores)
    assert len(steps) == len(order)
    if check_steps(steps, torch.float32, ValueBounds(graph, LARGEST_SCORE)) is not None:
        assert sum(name.startswith("fill") for name in order) > 0, "scales and masks alone are never refused"
        return
    product = find(graph, "matmul")
    g = GraphBuilder(graph, find(graph, "softmax"))
    masks = MaskBuilder(g, torch.float32)
    masks.take(steps)
    folded = g.aten.mul.Tensor(product, scale_of(steps))
    if masks.mask is not None and type_of(masks.mask).dtype is torch.bool:  # type: ignore[union-attr]
        folded = g.aten.masked_fill.Scalar(folded, g.aten.logical_not.default(masks.mask), -math.inf)
    elif masks.mask is not None:
        folded = g.aten.add.Tensor(folded, masks.mask)
    find(graph, "softmax").update_arg(0, folded)
    expected = scores(Q @ K.transpose(-2, -1), MASK, HIDDEN).softmax(-1)
    torch.testing.assert_close(interpret(graph, [Q, K, MASK, HIDDEN])[0], expected, equal_nan=True)


def test_how_many_orders_are_accepted() -> None:
    """So that the test above does not pass because everything is refused."""
    accepted = [order for order in ORDERS if not verdict(chained(order))]
    assert len(accepted) > 0.6 * len(ORDERS)
    assert {name for order in accepted for name in order} == STEPS.keys()


@pytest.mark.parametrize(
    ("scores", "reason"),
    [
        (lambda s, m, h: s * math.inf, "the scores are scaled by inf"),
        (lambda s, m, h: s.masked_fill(h, -math.inf) * -1, "the scores are scaled by -1"),
        (lambda s, m, h: s.masked_fill(h, LOWEST) * 2, "the scores are scaled by 2"),
        (lambda s, m, h: s + m.double().float().bfloat16(), "the mask is bf16[5, 7], expected torch.float32"),
        (lambda s, m, h: s.masked_fill(h, -10.0), "filled with -10.0, which may not hide them"),
        (lambda s, m, h: s.masked_fill(h, math.nan), "filled with nan, which may not hide them"),
        (lambda s, m, h: s.masked_fill(h, LOWEST) + m, "added to scores that are filled already"),
    ],
)
def test_reasons(scores: Scores, reason: str) -> None:
    assert reason in verdict(scores)


def test_a_mask_and_a_score_that_may_add_up_to_minus_infinity() -> None:
    def lowest(s: Tensor, m: Tensor, h: Tensor) -> Tensor:
        return s + torch.zeros(5, 7, dtype=torch.float16).masked_fill(h, torch.finfo(torch.float16).min)

    graph, steps = graph_and_steps(lowest, Q.half(), K.half())
    rejected = check_steps(steps, torch.float16, ValueBounds(graph, LARGEST_SCORE))
    assert rejected is not None
    assert "may add up to -inf" in rejected.reason


def test_factors() -> None:
    node = find(traced(lambda x: x.exp(), Q), "exp")
    assert factor_of(Step("scale", node, {"factor": 3})) == 3.0
    assert factor_of(Step("divide", node, {"divisor": 4})) == 0.25
    assert math.isnan(factor_of(Step("divide", node, {"divisor": 0})))
    assert factor_of(Step("mask", node, {})) == 1.0
    steps = [Step("scale", node, {"factor": 3}), Step("mask", node, {}), Step("divide", node, {"divisor": 4})]
    assert scale_of(steps) == 0.75


@pytest.mark.parametrize(("keys", "loses"), [(1, True), (31, True), (32, False), (128, False)])
def test_few_keys(keys: int, loses: bool) -> None:
    assert may_lose_nan(Graph(torch.fx.Graph()), keys) is loses


MASKS: dict[str, tuple[Callable[[Tensor], Tensor], bool]] = {
    "numbers that are finite": (lambda x: torch.zeros(5, 7).masked_fill(x > 0, -1e4), False),
    "-inf where the data says": (lambda x: torch.zeros(5, 7).masked_fill(x > 0, -math.inf), True),
    "causal": (lambda x: torch.ones(5, 7, dtype=torch.bool).tril(), False),
    "the first row is hidden": (lambda x: torch.ones(5, 7, dtype=torch.bool).tril(-1), True),
    "a boolean of the data": (lambda x: x > 0, True),
}


@pytest.mark.parametrize(("mask", "hides"), MASKS.values(), ids=MASKS.keys())
def test_rows_without_a_key(mask: Callable[[Tensor], Tensor], hides: bool) -> None:
    graph = traced(mask, normal(5, 7))
    made = graph.outputs[0]
    assert isinstance(made, Node)
    assert may_hide_a_row(graph, made, ValueBounds(graph, LARGEST_SCORE), IndexExpressions(graph)) is hides
