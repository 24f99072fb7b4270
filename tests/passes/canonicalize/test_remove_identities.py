"""Operators that give back their own input are removed, where nobody can tell."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from tests.helpers import FLOATS, normal, reasons, rewritten
from tests.small import MLP, apply, bits, graph_of, traced
from txgraph.ir import Graph, interpret
from txgraph.passes.canonicalize.remove_identities import RemoveIdentities

X = normal(2, 4)
I = torch.arange(8).reshape(2, 4)  # noqa: E741
SHARED = "without the copy an output could share memory with an input or a weight"
LAYOUT = "a view of the copy needs its layout"
NO_TYPE = "the result has another type than its input"

IDENTITIES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "dropout": lambda x: torch.dropout(x, 0.5, False),
    "clone": lambda x: x.clone(),
    "clone in a memory format": lambda x: x.clone(memory_format=torch.preserve_format),
    "times one": lambda x: x * 1,
    "times 1.0": lambda x: x * 1.0,
    "one times": lambda x: 1 * x,
    "over one": lambda x: x / 1,
}


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("identity", IDENTITIES.values(), ids=list(IDENTITIES))
def test_identities(identity: Callable[[torch.Tensor], torch.Tensor], dtype: torch.dtype) -> None:
    x = normal(2, 4, dtype=dtype)
    after = rewritten(RemoveIdentities(), lambda x: identity(x.exp()).neg(), x)
    assert after.count() == {"exp": 1, "neg": 1}


@pytest.mark.parametrize("function", [lambda i: i + 0, lambda i: i - 0, lambda i: 0 + i, lambda i: i * 1])
def test_identities_of_integers(function: Callable[[torch.Tensor], torch.Tensor]) -> None:
    after = rewritten(RemoveIdentities(), lambda i: function(i * 3) * 5, I)
    assert after.count() == {"mul": 2}


def test_several_in_a_row() -> None:
    after = rewritten(RemoveIdentities(), lambda x: (torch.dropout(x.exp() * 1, 0.1, False).clone() / 1).neg(), X)
    assert after.count() == {"exp": 1, "neg": 1}


EDGES = torch.tensor([0.0, -0.0, float("inf"), -float("inf"), float("nan"), 1e-45, 3e38, -1.5])


@pytest.mark.parametrize("identity", IDENTITIES.values(), ids=list(IDENTITIES))
def test_every_bit_is_kept(identity: Callable[[torch.Tensor], torch.Tensor]) -> None:
    assert torch.equal(bits(identity(EDGES)), bits(EDGES))


def test_adding_zero_to_floats_changes_minus_zero() -> None:
    assert not torch.equal(bits(EDGES + 0), bits(EDGES))
    for function in (lambda x: (x.exp() + 0).neg(), lambda x: (x.exp() - 0).neg()):
        assert reasons(RemoveIdentities(), function, X)[0] == "adding zero to a float turns -0.0 into 0.0"


@pytest.mark.parametrize(
    ("function", "x", "reason"),
    [
        (lambda x: x.exp()[0].clone(), X, SHARED),
        (lambda x: x.clone().neg(), X, SHARED),
        (lambda x: x.t().clone().neg(), X, SHARED),
        (lambda x: (x * 1, x.neg())[0], X, SHARED),
        (lambda i: (i.neg() / 1).neg(), I, NO_TYPE),
        (lambda i: (i.neg() * 1.0).neg(), I, NO_TYPE),
        (lambda i: ((i > 3) * 1).neg(), I, NO_TYPE),
        (lambda x: (x.exp() * 2).neg(), X, "expected 1, found 2"),
        (lambda x: (x.exp() * True).neg(), X, "expected 1, found True"),
        (lambda x: (x.exp() / 1.5).neg(), X, "expected 1, found 1.5"),
        (lambda x: torch.div(x.exp(), 1, rounding_mode="floor").neg(), X, "div has rounding_mode='floor'"),
        (lambda i: (i.neg() + 1).neg(), I, "expected 0, found 1"),
        (lambda x: x.exp().t().clone(memory_format=torch.contiguous_format).view(8).neg(), X, LAYOUT),
    ],
)
def test_what_is_kept(function: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, reason: str) -> None:
    assert reasons(RemoveIdentities(), function, x)[0] == reason


def test_active_dropout_is_kept() -> None:
    graph = traced(lambda x: torch.ops.aten.dropout.default(x.exp(), 0.5, False).neg(), X)
    (dropout,) = [n for n in graph.calls() if n.target is torch.ops.aten.dropout.default]
    dropout.update_arg(2, True)
    after, rewrites = apply(RemoveIdentities(), graph)
    assert rewrites == []
    assert after.count()["dropout"] == 1


def outputs(graph: Graph, x: torch.Tensor) -> list[torch.Tensor]:
    return list(interpret(graph, [x.clone()]))


def test_two_outputs_do_not_come_to_share_memory() -> None:
    def function(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = x.exp()
        return y, y.clone().t()

    after = rewritten(RemoveIdentities(), function, X)
    first, second = outputs(after, X)
    first.zero_()
    assert torch.equal(second, X.exp().t())


def test_a_view_of_a_copy_that_is_the_only_output_needs_no_copy() -> None:
    after = rewritten(RemoveIdentities(), lambda x: x.exp().clone().t(), X)
    assert after.count() == {"exp": 1, "t": 1}


def test_what_is_used_elsewhere_too_may_be_used_for_its_copy() -> None:
    """The rule has no inner values: its input stays whoever uses it."""

    def function(x: torch.Tensor) -> torch.Tensor:
        y = x.exp()
        return (y * 1).neg() + y.sin()

    assert rewritten(RemoveIdentities(), function, X).count() == {"add": 1, "exp": 1, "neg": 1, "sin": 1}


def test_a_network() -> None:
    after, rewrites = apply(RemoveIdentities(), graph_of(MLP(), X, scale=2.0))
    assert [r.module for r in rewrites] == ["copy"]
    assert "clone" not in after.count()


@pytest.mark.parametrize("shape", [(0, 4), (1, 4), (7, 4)])
def test_sizes(shape: tuple[int, int]) -> None:
    after = rewritten(RemoveIdentities(), lambda x: (x.exp() * 1).neg(), normal(*shape))
    assert after.count() == {"exp": 1, "neg": 1}


def test_dynamic_sizes() -> None:
    graph = graph_of(lambda x: (x.exp() * 1).neg(), X, dynamic_shapes={"x": {0: torch.export.Dim.AUTO}})
    after, _ = apply(RemoveIdentities(), graph)
    assert after.count() == {"exp": 1, "neg": 1}
