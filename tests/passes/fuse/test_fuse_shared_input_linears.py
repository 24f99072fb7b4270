"""Linears that read one value become one operator, which takes their weights as they are."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.export import Dim

import txgraph
from tests.helpers import EDGES, FLOATS, assert_numbers, normal, rewritten
from tests.small import apply, find, graph_of, module, traced
from txgraph.ir import Graph, arguments, interpret, op_name
from txgraph.passes.canonicalize.remove_identities import RemoveIdentities
from txgraph.passes.fold.eliminate_common_subexpressions import EliminateCommonSubexpressions
from txgraph.passes.fuse.fuse_shared_input_linears import FuseSharedInputLinears

RULE = FuseSharedInputLinears()
X = normal(2, 3, 8)
WEIGHTS = {"a": normal(4, 8), "b": normal(6, 8), "c": normal(1, 8)}
BIASES = {"d": normal(4), "e": normal(6), "f": normal(1)}
LINEARS = "txgraph::linears"
JOINED = {"getitem": 3, LINEARS: 1}

Tensor = torch.Tensor


def unbiased(x: Tensor, a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, ...]:
    return F.linear(x, a), F.linear(x, b), F.linear(x, c)


def biased(x: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor, e: Tensor, f: Tensor) -> tuple[Tensor, ...]:
    return F.linear(x, a, d), F.linear(x, b, e), F.linear(x, c, f)


def names(graph: Graph, argument: str) -> list[str | None]:
    """The constants that the joint operator is given."""
    return [None if n is None else str(n.target) for n in arguments(find(graph, LINEARS))[argument]]


def test_without_bias() -> None:
    after = rewritten(RULE, unbiased, X, **WEIGHTS)
    assert after.count() == JOINED
    assert names(after, "weights") == ["a", "b", "c"]
    assert names(after, "biases") == [None] * 3


def test_with_bias() -> None:
    after = rewritten(RULE, biased, X, **WEIGHTS, **BIASES)
    assert after.count() == JOINED
    assert names(after, "biases") == ["d", "e", "f"]


def some_biased(x: Tensor, a: Tensor, b: Tensor, c: Tensor, e: Tensor) -> tuple[Tensor, ...]:
    return F.linear(x, a), F.linear(x, b, e), F.linear(x, c)


def test_only_some_have_a_bias() -> None:
    after = rewritten(RULE, some_biased, X, **WEIGHTS, e=BIASES["e"])
    assert after.count() == JOINED
    assert names(after, "biases") == [None, "e", None]


def test_the_weights_are_the_models_own() -> None:
    """No copy, and no use of their values: they may change at any time."""
    graph = traced(biased, X, **WEIGHTS, **BIASES)
    after, _ = apply(RULE, graph)
    assert dict(after.constants) == {name: (WEIGHTS | BIASES)[name] for name in after.constants}
    assert all(after.constants[name] is tensor for name, tensor in (WEIGHTS | BIASES).items())
    assert after.constants.frozen_values() == frozenset()


@pytest.mark.parametrize("backend", ["reference", "inductor"])
def test_a_change_in_place_needs_no_new_graph(backend: str) -> None:
    torch.manual_seed(0)
    parts = {name: nn.Linear(8, size) for name, size in (("q", 8), ("k", 4), ("v", 4))}
    model = module(lambda x: (parts["q"](x), parts["k"](x), parts["v"](x)), **parts)
    fast = txgraph.optimize(model, backend=backend)
    fast(X)
    with torch.no_grad():
        parts["k"].weight.mul_(2)
    for value, expected in zip(fast(X), model(X), strict=True):
        torch.testing.assert_close(value, expected)
    assert len(fast.report.graphs) == 1


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_dtypes(dtype: torch.dtype) -> None:
    constants = {name: value.to(dtype) for name, value in (WEIGHTS | BIASES).items()}
    after = rewritten(RULE, biased, X.to(dtype), **constants)
    assert after.count() == JOINED
    assert {t.dtype for t in after.constants.values()} == {dtype}


def test_three_dtypes_in_one_graph() -> None:
    """Each value's linears are joined among themselves."""

    def function(
        x: Tensor, y: Tensor, z: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor, e: Tensor, f: Tensor
    ) -> tuple[Tensor, ...]:
        return tuple(F.linear(v, w) for v, w in ((x, a), (y, c), (z, e), (x, b), (y, d), (z, f)))

    dtypes = (torch.float32, torch.bfloat16, torch.float64)
    weights = {name: normal(4, 8, dtype=dtypes["abcdef".index(name) // 2]) + ord(name) for name in "abcdef"}
    after = rewritten(RULE, function, *[X.to(dtype) for dtype in dtypes], **weights)
    assert after.count() == {"getitem": 6, LINEARS: 3}


SHAPES = [(8,), (1, 8), (1, 1, 8), (0, 8), (2, 0, 8), (13, 8), (2, 3, 5, 8)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_shapes(shape: tuple[int, ...]) -> None:
    assert rewritten(RULE, biased, normal(*shape), **WEIGHTS, **BIASES).count() == JOINED


def test_sizes_of_zero() -> None:
    function = lambda x, a, b: (F.linear(x, a), F.linear(x, b))  # noqa: E731
    assert rewritten(RULE, function, X, a=normal(0, 8), b=normal(4, 8)).count()[LINEARS] == 1
    assert rewritten(RULE, function, X[..., :0], a=normal(3, 0), b=normal(4, 0)).count()[LINEARS] == 1


@pytest.mark.parametrize("edge", EDGES)
def test_edge_values(edge: Callable[[Tensor], Tensor]) -> None:
    rewritten(RULE, biased, edge(X), **WEIGHTS, **BIASES)
    weights = WEIGHTS | {"b": WEIGHTS["b"].index_fill(0, torch.tensor(1), float("nan"))}
    rewritten(RULE, biased, edge(X), **weights, **BIASES)


@pytest.mark.parametrize("layout", ["transposed", "expanded", "sliced"])
def test_inputs_of_any_layout(layout: str) -> None:
    x = {
        "transposed": normal(3, 2, 8).transpose(0, 1),
        "expanded": normal(1, 1, 8).expand(2, 3, 8),
        "sliced": normal(5, 4, 17)[1::2, 1:, 1::2],
    }[layout]
    after, _ = apply(RULE, traced(unbiased, X, **WEIGHTS))
    assert_numbers(after, unbiased, x, **WEIGHTS)


def test_weights_of_any_layout() -> None:
    weights = WEIGHTS | {"a": normal(8, 4).t(), "b": normal(12, 8)[::2]}
    assert rewritten(RULE, unbiased, X, **weights).count() == JOINED


def test_dynamic_sizes() -> None:
    torch.manual_seed(0)
    first, second = nn.Linear(8, 4), nn.Linear(8, 6, bias=False)
    model = module(lambda x: (first(x), second(x)), first=first, second=second)
    after, _ = apply(RULE, graph_of(model, X, dynamic_shapes=({0: Dim("B"), 1: Dim("S")},)))
    assert after.count()[LINEARS] == 1
    for b, s in ((2, 3), (4, 2), (3, 17)):
        for value, expected in zip(interpret(after, [normal(b, s, 8)]), model(normal(b, s, 8)), strict=True):
            torch.testing.assert_close(value, expected)


def test_results_that_are_viewed_on() -> None:
    def function(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
        q, k = (F.linear(x, w).view(2, 3, 2, 3).transpose(1, 2) for w in (a, b))
        return q @ k.transpose(-2, -1)

    after = rewritten(RULE, function, X, a=WEIGHTS["b"], b=WEIGHTS["b"] * 2)
    assert after.count()[LINEARS] == 1


def test_results_that_are_returned_have_memory_of_their_own() -> None:
    """As in eager: contiguous, and no part of a larger result that the caller keeps alive with it."""

    def function(x: Tensor, a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, ...]:
        return F.linear(x, a), F.linear(x, b).view(-1, 6).unsqueeze(0), F.linear(x, c) * 2

    after = rewritten(RULE, function, X, **WEIGHTS)
    once_more, _ = apply(RemoveIdentities(), after)
    for graph in (after, once_more):
        for value, expected in zip(interpret(graph, [X]), function(X, **WEIGHTS), strict=True):
            assert value.stride() == expected.stride()
            assert value.untyped_storage().nbytes() == expected.untyped_storage().nbytes()


def test_several_groups() -> None:
    def function(x: Tensor, y: Tensor, a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, ...]:
        return F.linear(x, a), F.linear(y, a), F.linear(x, b), F.linear(y, c)

    after = rewritten(RULE, function, X, X * 2, **WEIGHTS)
    assert after.count() == {"getitem": 4, LINEARS: 2}


def test_linears_far_apart() -> None:
    """The joint linear stands where the first of them stood; the last needs nothing else."""

    def function(x: Tensor, a: Tensor, b: Tensor, w: Tensor) -> Tensor:
        first = F.linear(F.linear(x, a).relu(), w)
        return first + F.linear(x, b)

    after = rewritten(RULE, function, X, a=normal(4, 8), b=normal(6, 8), w=normal(6, 4))
    assert after.count() == {"add": 1, "getitem": 2, "linear": 1, "relu": 1, LINEARS: 1}


def test_tied_weight_used_twice() -> None:
    """One constant before; its two uses are one after common subexpressions are merged, and joined without that."""
    function = lambda x, a: (F.linear(x, a), F.linear(x, a) * 2)  # noqa: E731
    graph = traced(function, X, a=WEIGHTS["a"])
    after, _ = apply(RULE, graph)
    assert after.count() == {"getitem": 2, "mul": 1, LINEARS: 1}
    assert names(after, "weights") == ["a", "a"]
    assert_numbers(after, function, X, a=WEIGHTS["a"])
    merged, _ = apply(EliminateCommonSubexpressions(), graph)
    assert apply(RULE, merged)[1] == []


def test_what_it_records() -> None:
    torch.manual_seed(0)
    first, second = nn.Linear(8, 4), nn.Linear(8, 6)
    graph = graph_of(module(lambda x: (first(x), second(x)), first=first, second=second), X)
    after, (rewrite,) = apply(RULE, graph)
    assert rewrite.rule == "fuse-shared-input-linears"
    assert rewrite.removed == tuple(n.name for n in graph.calls() if op_name(n) == "linear")
    assert set(rewrite.made) <= {n.name for n in after.nodes}


# What must not be joined.


def kept(function: Callable[..., object], *inputs: Tensor, **w: Tensor) -> bool:
    return apply(RULE, traced(function, *inputs, **w))[1] == []


def test_one_linear_or_two_values() -> None:
    assert kept(lambda x, a: F.linear(x, a), X, a=WEIGHTS["a"])
    assert kept(lambda x, a, b: F.linear(x, a) + F.linear(x * 2, b), X, a=WEIGHTS["a"], b=WEIGHTS["a"] * 2)


def test_weights_that_are_inputs_or_computed() -> None:
    function = lambda x, a, b: (F.linear(x, a), F.linear(x, b))  # noqa: E731
    assert kept(function, X, WEIGHTS["a"], WEIGHTS["b"])
    assert kept(function, X, WEIGHTS["a"], b=WEIGHTS["b"])
    assert kept(lambda x, a, b: (F.linear(x, a * 2), F.linear(x, b)), X, a=WEIGHTS["a"], b=WEIGHTS["b"])


def test_bias_that_is_an_input_or_computed() -> None:
    function = lambda x, d, a, b: (F.linear(x, a, d), F.linear(x, b))  # noqa: E731
    assert kept(function, X, BIASES["d"], a=WEIGHTS["a"], b=WEIGHTS["b"])


def test_weight_without_a_row_per_output() -> None:
    """A weight of one axis is a vector product: its result has no last axis to split."""
    function = lambda x, a, b: (F.linear(x, a), F.linear(x, b))  # noqa: E731
    assert kept(function, X, a=normal(8), b=normal(8) * 2)
    assert kept(function, X, a=normal(8), b=normal(4, 8))


@pytest.mark.parametrize("shape", [(1,), ()], ids=str)
def test_bias_that_broadcasts(shape: tuple[int, ...]) -> None:
    function = lambda x, a, b, d, e: (F.linear(x, a, d), F.linear(x, b, e))  # noqa: E731
    constants = {"a": WEIGHTS["a"], "b": WEIGHTS["b"], "d": normal(*shape), "e": BIASES["e"]}
    assert kept(function, X, **constants)


class Adapting(nn.Module):
    """Its weight or bias is a buffer that each call changes."""

    def __init__(self, changed: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.register_buffer("weight", normal(4, 8))
        self.register_buffer("bias", normal(4))
        self.other = nn.Parameter(normal(6, 8))
        self.changed = changed

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        result = F.linear(x, self.weight, self.bias), F.linear(x, self.other)
        getattr(self, self.changed).mul_(0.5)
        return result


@pytest.mark.parametrize("changed", ["weight", "bias"])
def test_weight_or_bias_that_each_call_changes(changed: str) -> None:
    graph = graph_of(Adapting(changed), X)
    assert [m.target for m in graph.mutations] == [changed]
    assert apply(RULE, graph)[1] == []
