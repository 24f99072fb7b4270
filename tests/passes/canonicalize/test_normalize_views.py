"""Every change of shape has one form, and copies made for a layout are gone where nobody can tell."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.export import Dim

from tests.helpers import assert_numbers, normal, rewritten
from tests.small import apply, bits, find, graph_of, module, traced
from txgraph.ir import arguments, interpret
from txgraph.passes.canonicalize.normalize_views import NormalizeViews

RULE = NormalizeViews()
X = normal(2, 3, 4)
CONTIGUOUS = torch.contiguous_format
aten = torch.ops.aten

Tensor = torch.Tensor


def contiguous(x: Tensor) -> Tensor:
    return x.clone(memory_format=CONTIGUOUS)


@pytest.mark.parametrize("view", [lambda x, s: x.view(s), aten._unsafe_view.default])
def test_view_becomes_reshape(view: Callable[[Tensor, list[int]], Tensor]) -> None:
    after = rewritten(RULE, lambda x: view(x + 1, [6, 4]) * 2, X)
    assert after.count() == {"add": 1, "mul": 1, "reshape": 1}
    assert arguments(find(after, "reshape"))["shape"] == [6, 4]


SWAPS = [
    ([0, 2, 1], (1, 2)),
    ([1, 0, 2], (0, 1)),
    ([2, 1, 0], (0, 2)),
    ([-1, 1, 0], (0, 2)),
    ([0, -1, -2], (1, 2)),
]


@pytest.mark.parametrize(("order", "axes"), SWAPS, ids=str)
def test_permute_of_two_axes_becomes_transpose(order: list[int], axes: tuple[int, int]) -> None:
    after = rewritten(RULE, lambda x: x.permute(order) + 1, X)
    assert after.count() == {"add": 1, "transpose": 1}
    assert find(after, "transpose").args[1:] == axes


@pytest.mark.parametrize("order", [[1, 2, 0], [2, 0, 1]], ids=str)
def test_other_permutations_stay(order: list[int]) -> None:
    assert apply(RULE, traced(lambda x: x.permute(order) + 1, X))[1] == []


@pytest.mark.parametrize("x", [X, X[0, 0], torch.tensor(1.0)], ids=lambda x: str(x.dim()))
def test_permutation_that_moves_nothing(x: Tensor) -> None:
    order = list(range(x.dim()))
    assert rewritten(RULE, lambda x: x.permute(order) + 1, x).count() == {"add": 1}
    assert rewritten(RULE, lambda x: x.permute(order).neg(), x).count() == {"neg": 1}


TWICE = [
    (lambda x: x.transpose(0, 1).transpose(1, 2), {"permute": 1}, [1, 2, 0]),
    (lambda x: x.permute(1, 2, 0).permute(1, 2, 0), {"permute": 1}, [2, 0, 1]),
    (lambda x: x.permute(1, 2, 0).transpose(0, 2), {"transpose": 1}, [0, 2, 1]),
    (lambda x: x.permute(1, 2, 0).transpose(-1, -2).transpose(0, 1), {}, [0, 1, 2]),
    (lambda x: x.transpose(1, 2).transpose(2, 1), {}, [0, 1, 2]),
]


@pytest.mark.parametrize(("function", "count", "order"), TWICE)
def test_permutations_of_permutations(
    function: Callable[[Tensor], Tensor], count: dict[str, int], order: list[int]
) -> None:
    assert torch.equal(function(X), X.permute(order))
    after = rewritten(RULE, lambda x: function(x).exp(), X)
    assert after.count() == {"exp": 1, **count}


def test_permutation_of_a_permutation_that_is_used_elsewhere() -> None:
    def function(x: Tensor) -> tuple[Tensor, Tensor]:
        swapped = x.transpose(0, 1)
        return swapped.exp(), swapped.transpose(1, 2).neg()

    assert rewritten(RULE, function, X).count() == {"exp": 1, "neg": 1, "permute": 1, "transpose": 1}


def test_t_becomes_transpose() -> None:
    after = rewritten(RULE, lambda x: x.t() + 1, X[0])
    assert after.count() == {"add": 1, "transpose": 1}
    assert find(after, "transpose").args[1:] == (0, 1)


@pytest.mark.parametrize("x", [X[0, 0], torch.tensor(2.0)])
def test_t_of_fewer_than_two_axes_is_nothing(x: Tensor) -> None:
    assert rewritten(RULE, lambda x: x.t() + 1, x).count() == {"add": 1}
    assert rewritten(RULE, lambda x: x.t(), x).count() == {}


def test_normal_forms_stay() -> None:
    def function(x: Tensor) -> Tensor:
        return aten.reshape(x.transpose(0, 1), [6, 4]).unsqueeze(0)[0].expand(6, 4) + 1

    assert apply(RULE, traced(function, X))[1] == []


def test_view_as_another_dtype_stays() -> None:
    after = apply(RULE, traced(lambda x: (x + 1).view(torch.int32) + 1, X))[0]
    assert after.count() == {"add": 2, "view": 1}


def test_contiguous_copy_is_dropped() -> None:
    """As in attention: heads are moved and joined again."""

    def function(x: Tensor) -> Tensor:
        return contiguous((x + 1).transpose(0, 1)).view(3, 8) * 2

    after = rewritten(RULE, function, X)
    assert after.count() == {"add": 1, "mul": 1, "reshape": 1, "transpose": 1}


def test_contiguous_copy_that_stays() -> None:
    cases: list[Callable[[Tensor], Any]] = [
        lambda x: contiguous((x + 1).transpose(0, 1)),  # it is an output, and of another layout
        lambda x: contiguous(x.transpose(0, 1)) * 2,  # of an input
        lambda x: (x + 1).transpose(0, 1).clone() * 2,  # keeps the strides: another pass's matter
        lambda x: (x + 1).transpose(0, 1).clone(memory_format=torch.preserve_format) * 2,
    ]
    for function in cases:
        assert rewritten(RULE, function, X).count()["clone"] == 1
    assert rewritten(RULE, lambda x, w: contiguous(w.transpose(0, 1)) * x, X[0], w=normal(4, 3)).count()["clone"] == 1


def test_copy_of_an_output_stays() -> None:
    def function(x: Tensor) -> tuple[Tensor, Tensor]:
        y = x + 1
        return y, contiguous(y)

    assert rewritten(RULE, function, X).count()["clone"] == 1


@pytest.mark.parametrize("view", [lambda y: y.view(24), lambda y: y.transpose(0, 1), lambda y: y[0], lambda y: y[None]])
def test_copy_whose_view_is_an_output_stays(view: Callable[[Tensor], Tensor]) -> None:
    """A write to one output must not be seen in the other."""

    def function(x: Tensor) -> tuple[Tensor, Tensor]:
        y = x + 1
        return y, view(contiguous(y))

    rewritten(RULE, function, X)


@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 0, 4), (1, 1, 1), (13, 7, 5)], ids=str)
def test_sizes(shape: tuple[int, ...]) -> None:
    def function(x: Tensor) -> Tensor:
        return (contiguous((x + 1).permute(0, 2, 1)).view(shape[0], -1) if x.numel() else (x + 1).view(shape)) * 2

    after = rewritten(RULE, function, normal(*shape))
    assert set(after.count()) <= {"add", "mul", "reshape", "transpose"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.int64, torch.bool], ids=str)
def test_every_value_is_kept(dtype: torch.dtype) -> None:
    x = X.clone()
    x[0, 0] = torch.tensor([float("nan"), float("inf"), -0.0, 1e-40])
    values = x.to(dtype) if dtype.is_floating_point else (x > 0).to(dtype)
    graph = traced(lambda x: contiguous(x.clone().permute(1, 0, 2)).view(3, 8).t().flip(0), values)
    after, _ = apply(RULE, graph)
    assert after.count() == {"clone": 1, "flip": 1, "reshape": 1, "transpose": 2}
    assert bits(interpret(after, [values])[0]).equal(bits(interpret(graph, [values])[0]))


def test_inputs_of_any_layout() -> None:
    function = lambda x: aten.reshape(x, [6, 4]).permute(1, 0) + 1  # noqa: E731
    after, _ = apply(RULE, traced(function, X))
    for x in (normal(3, 2, 4).transpose(0, 1), normal(1, 1, 4).expand(2, 3, 4), normal(2, 3, 8)[..., ::2]):
        assert_numbers(after, function, x)


def test_dynamic_sizes() -> None:
    model = module(lambda x: (x + 1).transpose(0, 1).contiguous().view(x.shape[1], -1) * 2)
    after, _ = apply(RULE, graph_of(model, X, dynamic_shapes=({0: Dim("B"), 1: Dim("S")},)))
    assert {"view", "clone", "permute"}.isdisjoint(after.count())
    for b, s in ((2, 3), (4, 2), (3, 17)):
        assert_numbers(after, model.forward, normal(b, s, 4))


def test_what_it_records() -> None:
    graph = traced(lambda x: (x + 1).view(6, 4).permute(1, 0) * 2, X)
    after, rewrites = apply(RULE, graph)
    assert [r.removed for r in rewrites] == [("view",), ("permute",)]
    assert [len(r.made) for r in rewrites] == [1, 1]
    assert find(after, "reshape").meta["txgraph_passes"] == ("normalize-views",)
