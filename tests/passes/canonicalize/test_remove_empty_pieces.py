"""Empty pieces of a concatenation are left out; a result never shares memory with what the caller holds."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.export import Dim

from tests.helpers import FLOATS, assert_numbers, normal, rewritten
from tests.small import apply, graph_of, module, traced
from txgraph import PassContext
from txgraph.passes.canonicalize.remove_empty_pieces import RemoveEmptyPieces
from txgraph.rewrite import explain_pass

RULE = RemoveEmptyPieces()
X, Y = normal(2, 3, 4), normal(2, 5, 4)
NOTHING = torch.empty(0)

Tensor = torch.Tensor


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_a_cache_before_the_first_token(dtype: torch.dtype) -> None:
    function = lambda x, e: torch.cat([e, x.exp()], 1) * 2  # noqa: E731
    assert rewritten(RULE, function, X.to(dtype), e=NOTHING.to(dtype)).count() == {"exp": 1, "mul": 1}


CASES: dict[str, tuple[Callable[..., Tensor], dict[str, int]]] = {
    "last": (lambda x, y, e: torch.cat([x.exp(), e], 1) * 2, {"exp": 1, "mul": 1}),
    "two are left": (lambda x, y, e: torch.cat([x, e, y], 1), {"cat": 1}),
    "no elements along the axis": (
        lambda x, y, e: torch.cat([x[:, :0], x.exp()], -2) * 2,
        {"exp": 1, "mul": 1},
    ),
    "of an input": (lambda x, y, e: torch.cat([e, x], 1) * 2, {"clone": 1, "mul": 1}),
    "of a view that is returned": (
        lambda x, y, e: torch.cat([e, x.exp().transpose(1, 2)], 1),
        {"clone": 1, "exp": 1, "transpose": 1},
    ),
    "computed and returned": (lambda x, y, e: torch.cat([e, x.exp()], 1), {"exp": 1}),
}


@pytest.mark.parametrize(("function", "count"), CASES.values(), ids=CASES.keys())
def test_cases(function: Callable[..., Tensor], count: dict[str, int]) -> None:
    after = rewritten(RULE, function, X, Y, e=NOTHING)
    after.eliminate_dead_code()
    assert after.count() == count


def test_nothing_is_empty_or_everything() -> None:
    assert apply(RULE, traced(lambda x, y: torch.cat([x, y], 1), X, Y))[1] == []
    assert apply(RULE, traced(lambda x: torch.cat([x[:, :0], x[:, :0]], 1), X))[1] == []
    assert apply(RULE, traced(lambda x: torch.cat([x[:0], x[:0]], 1), X))[1] == []


def test_an_empty_piece_of_a_wider_dtype() -> None:
    graph = traced(lambda x, e: torch.cat([e, x.exp()], 1), X, e=NOTHING.double())
    rewrites, misses = explain_pass(RULE, graph, PassContext())
    assert rewrites == []
    assert misses[0].reason == "the empty pieces take part in the dtype of the result"


def test_sizes_that_vary_are_not_taken_for_empty() -> None:
    model = module(lambda x, y: torch.cat([x.exp(), y.exp()], 1))
    graph = graph_of(model, X, Y, dynamic_shapes=({1: Dim("S", min=0)}, {1: Dim("T", min=0)}))
    after, rewrites = apply(RULE, graph)
    assert rewrites == []
    assert_numbers(after, model.forward, X[:, :2], Y)
