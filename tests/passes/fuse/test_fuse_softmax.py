"""The safe form of softmax becomes one operator; the form that overflows does not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from tests.helpers import FLOATS, normal, reasons, rewritten
from tests.small import apply, find, traced
from txgraph.ir import arguments
from txgraph.passes.fuse.fuse_softmax import FuseSoftmax

RULE = FuseSoftmax()
X = normal(2, 3, 5)

Tensor = torch.Tensor


def by_amax(x: Tensor, axis: int = -1) -> Tensor:
    e = (x - x.amax(axis, keepdim=True)).exp()
    return e / e.sum(axis, keepdim=True)


def by_max(x: Tensor, axis: int = -1) -> Tensor:
    e = torch.exp(x - x.max(dim=axis, keepdim=True)[0])
    return e / torch.sum(e, dim=axis, keepdim=True)


@pytest.mark.parametrize("form", [by_amax, by_max])
@pytest.mark.parametrize("axis", [-1, 0, 1, 2])
def test_forms(form: Callable[..., Tensor], axis: int) -> None:
    after = rewritten(RULE, lambda x: form(x, axis), X)
    assert after.count() == {"softmax": 1}
    assert arguments(find(after, "softmax"))["dim"] == axis % 3


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_dtypes(dtype: torch.dtype) -> None:
    assert rewritten(RULE, lambda x: by_amax(x), X.to(dtype)).count() == {"softmax": 1}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e38, -1e38, 1e-45])
@pytest.mark.parametrize("whole_row", [True, False])
def test_edge_values(value: float, whole_row: bool) -> None:
    x = X.clone()
    x[0, 0, slice(None) if whole_row else slice(0, 1)] = value
    rewritten(RULE, lambda x: by_amax(x), x)


@pytest.mark.parametrize("shape", [(1,), (1, 1), (0, 3), (7,)], ids=str)
def test_shapes(shape: tuple[int, ...]) -> None:
    assert rewritten(RULE, lambda x: by_amax(x), normal(*shape)).count() == {"softmax": 1}


def test_without_the_maximum() -> None:
    """exp of 100 overflows, softmax does not."""
    assert reasons(RULE, lambda x: x.exp() / x.exp().sum(-1, keepdim=True), X)[0].startswith("expected sub, found %x")


def test_another_maximum() -> None:
    def function(x: Tensor, y: Tensor) -> Tensor:
        e = (x - y.amax(-1, keepdim=True)).exp()
        return e / e.sum(-1, keepdim=True)

    assert reasons(RULE, function, X, X * 2)[0] == "'x' occurs twice with two values"


def test_maximum_and_sum_over_different_axes() -> None:
    def function(x: Tensor) -> Tensor:
        e = (x - x.amax(1, keepdim=True)).exp()
        return e / e.sum(-1, keepdim=True)

    assert reasons(RULE, function, X)[0] == "the maximum is over axes [1], the sum over [2]: expected the same one"


def test_over_two_axes() -> None:
    def function(x: Tensor) -> Tensor:
        e = (x - x.amax((1, 2), keepdim=True)).exp()
        return e / e.sum((1, 2), keepdim=True)

    assert reasons(RULE, function, X)[0].endswith("expected the same one")


def test_axes_that_are_dropped() -> None:
    def function(x: Tensor) -> Tensor:
        e = (x - x.amax(-1)).exp()
        return e / e.sum(-1)

    assert reasons(RULE, function, normal(4, 4))[0] == "expected True, found False"


def test_inner_value_used_elsewhere() -> None:
    def function(x: Tensor) -> tuple[Tensor, Tensor]:
        e = (x - x.amax(-1, keepdim=True)).exp()
        return e / e.sum(-1, keepdim=True), e

    assert reasons(RULE, function, X)[0] == "inner value %exp is also used by %output"


def test_integers() -> None:
    assert apply(RULE, traced(lambda x: by_amax(x), torch.arange(6).reshape(2, 3)))[1] == []


def test_a_sum_over_all_axes() -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        e = torch.ops.aten.exp(torch.ops.aten.sub(x, torch.ops.aten.amax(x, [-1], True)))
        return torch.ops.aten.div(e, torch.ops.aten.sum.dim_IntList(e, None, True))

    (reason,) = reasons(RULE, function, normal(3, 8))
    assert reason == "the maximum is over axes [1], the sum over [0, 1]: expected the same one"
