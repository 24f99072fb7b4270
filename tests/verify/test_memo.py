"""Runs that share products give what runs by themselves give, bit by bit, and share what they may."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tests.helpers import normal
from tests.small import graph_of, traced
from tests.zoo import ZOO
from txgraph.ir import Graph, interpret
from txgraph.passes import default_pipeline
from txgraph.pipeline import PassResult
from txgraph.rewrite import PassContext
from txgraph.verify.memo import Memo

Tensor = torch.Tensor
ROOM = 10**9
WEIGHT = normal(8, 8)
OTHER = normal(8, 8)


def run(memo: Memo, graph: Graph, *inputs: Tensor) -> tuple[Any, ...]:
    """Outputs of a run with the memo: those of a run without it."""
    outputs = memo.interpret(graph, [each.clone() for each in inputs])
    for output, expected in zip(outputs, interpret(graph, [each.clone() for each in inputs]), strict=True):
        if isinstance(expected, Tensor):
            assert output.stride() == expected.stride()
            assert torch.equal(output, expected)
    return outputs


@pytest.mark.parametrize("name", ["bert-eager", "gpt2-sdpa", "llama-sdpa", "t5-sdpa", "vit-sdpa", "nn.Transformer"])
def test_between_passes(name: str) -> None:
    inputs = ZOO[name].inputs(2, 12)
    graph = graph_of(ZOO[name].model(), **inputs)
    memo, tensors = Memo(ROOM), list(inputs.values())
    run(memo, graph, *tensors)
    assert memo.computed > 3
    run(memo, graph, *tensors)
    assert memo.reused == memo.computed  # all of them
    changed = []

    def between_passes(result: PassResult) -> str:
        before = memo.reused
        run(memo, result.after, *tensors)
        changed.append(memo.reused > before)
        return ""

    default_pipeline().run(graph, PassContext(), between_passes)
    assert sum(changed) > len(changed) / 2


def test_values_are_known_by_their_bits() -> None:
    """What is computed in another way, and is the same, has the same products."""
    memo, x = Memo(ROOM), normal(4, 8)
    run(memo, traced(lambda x, weight: F.linear(torch.relu(x), weight), x, weight=WEIGHT), x)
    run(memo, traced(lambda x, weight: F.linear(x.clamp(min=0) + 0, weight), x, weight=WEIGHT), x)
    run(memo, traced(lambda x, weight: F.linear(x.view(2, 2, 8).view(4, 8).relu(), weight), x, weight=WEIGHT), x)
    assert (memo.computed, memo.reused) == (1, 2)


@pytest.mark.parametrize(
    "function",
    [
        lambda x, weight, other: F.linear(x.relu(), other),
        lambda x, weight, other: F.linear(x.relu(), weight.t()),
        lambda x, weight, other: F.linear(x.relu().flip(0), weight),
        lambda x, weight, other: F.linear(x.relu()[1:], weight),
        lambda x, weight, other: F.linear(x.relu().view(8, 4).t(), weight),
        lambda x, weight, other: F.linear(x.relu(), weight[:4]),
        lambda x, weight, other: F.linear(x.relu(), weight, other[0]),
        lambda x, weight, other: F.linear(x.relu() * 1.0000001, weight),
        lambda x, weight, other: F.linear(torch.ops.aten._neg_view(x.relu()), weight),
        lambda x, weight, other: F.linear(x.relu().double(), weight.double()),
    ],
    ids=itertools.count(),
)
def test_other_operands(function: Any) -> None:
    memo, x = Memo(ROOM), normal(4, 8)
    run(memo, traced(lambda x, weight, other: F.linear(x.relu(), weight), x, weight=WEIGHT, other=OTHER), x)
    run(memo, traced(function, x, weight=WEIGHT, other=OTHER), x)
    assert (memo.computed, memo.reused) == (2, 0)


def test_operators_that_are_made_of_products() -> None:
    memo, x = Memo(ROOM), normal(2, 4, 8)
    parts = {"weight": WEIGHT, "other": OTHER}
    run(memo, traced(lambda x, weight, other: (F.linear(x, weight), F.linear(x, other)), x, **parts), x)
    joint = traced(lambda x, weight, other: torch.ops.txgraph.linears(x, [weight, other], [None, None]), x, **parts)
    run(memo, joint, x)
    assert (memo.computed, memo.reused) == (2, 2)


def test_a_weight_that_was_written_to() -> None:
    weight, x = WEIGHT.clone(), normal(4, 8)
    graph = traced(lambda x, weight: F.linear(x, weight), x, weight=weight)
    memo = Memo(ROOM)
    (before,) = run(memo, graph, x)
    weight.mul_(2)
    (after,) = run(memo, graph, x)
    assert torch.equal(after, before * 2)


def test_results_are_nobody_elses() -> None:
    """What a run gives may be written to, and is not what another run gives."""
    memo, x = Memo(ROOM), normal(4, 8)
    graph = traced(lambda x, weight: (F.linear(x, weight), F.linear(x, weight)), x, weight=WEIGHT)
    for _ in range(3):
        first, second = run(memo, graph, x)
        assert first.untyped_storage().data_ptr() != second.untyped_storage().data_ptr()
        first.zero_()
        second.fill_(3)


def test_halves() -> None:
    memo, x = Memo(ROOM), normal(4, 8)
    halves = traced(
        lambda x, weight: (F.linear(x.relu()[:2], weight), F.linear(x.relu()[2:], weight)), x, weight=WEIGHT
    )
    run(memo, halves, x)
    assert (memo.computed, memo.reused) == (2, 0)


def test_memory_that_is_written_to() -> None:
    """Definitions may write to memory of their own."""
    x = normal(4, 8)
    with Memo(ROOM):
        own = x * 2
        view = own.view(4, 8)
        before = view @ WEIGHT
        own.mul_(2)
        assert torch.equal(view @ WEIGHT, before * 2)
        for factor in (1, 2):
            filled = torch.empty(4, 8)
            filled.numpy()[:] = x.numpy() * factor
            assert torch.equal(filled @ WEIGHT * (2 // factor), before)


def test_random_numbers() -> None:
    memo, x = Memo(ROOM), torch.ones(4, 8)
    graph = traced(lambda x, weight: F.linear(torch.bernoulli(x * 0.5), weight), x, weight=WEIGHT)
    torch.manual_seed(0)
    (first,) = memo.interpret(graph, [x.clone()])
    (second,) = memo.interpret(graph, [x.clone()])
    assert not torch.equal(first, second)


@pytest.fixture
def counting() -> Iterator[Any]:
    """An operator of somebody's, which counts its calls, and adds their number."""
    calls = itertools.count()
    with torch.library._scoped_library("memo_test", "FRAGMENT") as library:
        library.define("counted(Tensor x) -> Tensor")
        library.impl("counted", lambda x: x + next(calls), "CompositeExplicitAutograd")
        torch.library.register_fake("memo_test::counted", torch.empty_like, lib=library)
        yield torch.ops.memo_test.counted


def test_operators_of_others(counting: Any) -> None:
    memo, x = Memo(ROOM), normal(4, 8)
    graph = traced(lambda x, weight: F.linear(counting(x), weight), x, weight=WEIGHT)
    (first,) = memo.interpret(graph, [x.clone()])
    (second,) = memo.interpret(graph, [x.clone()])
    assert not torch.equal(first, second)
    assert memo.reused == 0


def test_room() -> None:
    """Results that have no room are computed each time."""
    x = normal(4, 8)
    graph = traced(lambda x, weight: F.linear(F.linear(x, weight), weight), x, weight=WEIGHT)
    for room, reused in ((0, 0), (4 * 8 * 4, 1), (2 * 4 * 8 * 4, 2)):
        memo = Memo(room)
        for _ in range(2):
            run(memo, graph, x)
        assert memo.reused == reused
