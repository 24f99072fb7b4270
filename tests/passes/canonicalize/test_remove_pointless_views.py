"""Views and casts that change nothing are gone; those that only look like it stay."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import pytest
import torch
from torch.export import Dim

from tests.helpers import assert_numbers, normal, reasons, rejections, rewritten
from tests.small import apply, bits, find, graph_of, traced
from txgraph.ir import arguments, interpret
from txgraph.passes.canonicalize.remove_pointless_views import RemovePointlessViews

RULE = RemovePointlessViews()
X = normal(2, 3, 4)
aten = torch.ops.aten
reshape, cast = aten.reshape.default, aten._to_copy.default

Tensor = torch.Tensor
Change = Callable[[Tensor], Tensor]


def to(dtype: torch.dtype) -> Change:
    return lambda x: cast(x, dtype=dtype)


def around(change: Change) -> Change:
    """The change in the middle of a graph."""
    return lambda x: change(x + 1) * 2


POINTLESS: dict[str, Change] = {
    "reshape": lambda x: reshape(x, [2, 3, 4]),
    "reshape, -1": lambda x: reshape(x, [2, -1, 4]),
    "expand": lambda x: x.expand(2, 3, 4),
    "expand, -1": lambda x: x.expand(-1, -1, 4),
    "slice": lambda x: aten.slice(x, 1, 0, 3),
    "slice to the largest number": lambda x: aten.slice(x, 1, 0, 2**63 - 1),
    "slice without a start": lambda x: aten.slice(x, 1, None, 3),
    "slice without an end": lambda x: aten.slice(x, 1),
    "slice beyond the end": lambda x: aten.slice(x, -1, 0, 100),
    "alias": lambda x: aten.alias(x),
    "cast": lambda x: cast(x, dtype=torch.float32),
    "cast to a device": lambda x: cast(x, device="cpu"),
    "transpose and back": lambda x: x.transpose(1, 2).transpose(1, 2),
    "transpose and back, counted from the end": lambda x: x.transpose(-1, -2).transpose(-1, -2),
    "transpose of an axis and itself, twice": lambda x: x.transpose(0, 0).transpose(0, 0),
    "reshape and back": lambda x: reshape(reshape(x, [6, 4]), [2, 3, 4]),
    "float64 and back": lambda x: cast(cast(x, dtype=torch.float64), dtype=torch.float32),
    "all": lambda x: cast(reshape(x.transpose(0, 1).transpose(0, 1).expand(2, 3, 4), [2, 3, 4]), dtype=torch.float32),
}


@pytest.mark.parametrize("change", POINTLESS.values(), ids=list(POINTLESS))
def test_pointless(change: Change) -> None:
    assert rewritten(RULE, around(change), X).count() == {"add": 1, "mul": 1}


@pytest.mark.parametrize("name", ["reshape", "expand", "slice", "alias", "transpose and back"])
def test_pointless_views_of_inputs_and_as_outputs(name: str) -> None:
    """Eager's views share memory with the input, too."""
    assert rewritten(RULE, POINTLESS[name], X).count() == {}
    assert rewritten(RULE, lambda x, w: POINTLESS[name](w) + x, X, w=X * 2).count() == {"add": 1}


def test_reshapes_are_joined() -> None:
    after = rewritten(RULE, around(lambda x: reshape(reshape(reshape(x, [6, 4]), [24]), [4, 6])), X)
    assert after.count() == {"add": 1, "mul": 1, "reshape": 1}
    assert arguments(find(after, "reshape"))["shape"] == [4, 6]


def test_joined_reshapes_of_another_layout() -> None:
    """The first copies, the second is a view of the copy; the joint one copies."""
    change: Change = lambda x: reshape(reshape(x.transpose(0, 1), [12, 2]), [4, 6])  # noqa: E731
    assert rewritten(RULE, around(change), X).count()["reshape"] == 1
    after, _ = apply(RULE, traced(around(change), X))
    for x in (normal(3, 2, 4).transpose(0, 1), normal(1, 1, 4).expand(2, 3, 4), normal(2, 3, 8)[..., ::2]):
        assert_numbers(after, around(change), x)


@pytest.mark.parametrize(("narrow", "wide"), [("float16", "float32"), ("bfloat16", "float32"), ("float32", "float64")])
def test_widening_and_back(narrow: str, wide: str) -> None:
    """Every number comes back: NaN, infinities, signed zeros and the tiny ones, too."""
    dtype = getattr(torch, narrow)
    function = lambda x: to(dtype)(to(getattr(torch, wide))(x.clone())).neg()  # noqa: E731
    assert rewritten(RULE, function, X.to(dtype)).count() == {"clone": 1, "neg": 1}
    every = torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(dtype) if narrow != "float32" else X
    back = to(dtype)(to(getattr(torch, wide))(every))
    finite = ~every.isnan()
    assert bits(back[finite]).equal(bits(every[finite]))
    assert back[~finite].isnan().all()


@pytest.mark.parametrize("shape", [(0, 3), (1, 1), (1,), (), (13, 7)], ids=str)
def test_sizes(shape: tuple[int, ...]) -> None:
    change: Change = lambda x: cast(reshape(x, list(shape)).expand(shape), dtype=torch.float32)  # noqa: E731
    assert rewritten(RULE, around(change), normal(*shape)).count() == {"add": 1, "mul": 1}


def test_dynamic_sizes() -> None:
    def function(x: Tensor) -> Tensor:
        b, s = x.shape[:2]
        y = reshape(reshape(x + 1, [b, s * 4]), [b, s, 4]).expand(b, s, 4)
        return y[:, :s].transpose(0, 1).transpose(0, 1) * 2

    graph = graph_of(function, X, dynamic_shapes=({0: Dim("B", min=2), 1: Dim("S", min=2)},))
    after, _ = apply(RULE, graph)
    assert {"expand", "slice", "transpose", "alias"}.isdisjoint(after.count())
    for b, s in ((2, 3), (4, 2), (3, 17)):
        assert_numbers(after, function, normal(b, s, 4))


def test_what_it_records() -> None:
    graph = traced(around(POINTLESS["float64 and back"]), X)
    _, (rewrite,) = apply(RULE, graph)
    assert rewrite.rule == "remove-pointless-views"
    assert rewrite.removed == ("_to_copy_1", "_to_copy")
    assert rewrite.made == ()


# What must stay, and why.

CHANGING: dict[str, tuple[Change, str]] = {
    "reshape": (lambda x: reshape(x, [6, 4]), "it changes f32[2, 3, 4] into f32[6, 4]"),
    "expand": (lambda x: x.expand(2, 2, 3, 4), "it changes f32[2, 3, 4] into f32[2, 2, 3, 4]"),
    "slice to the last but one": (lambda x: aten.slice(x, 1, 0, -1), "it changes f32[2, 3, 4] into f32[2, 2, 4]"),
    "slice": (lambda x: aten.slice(x, 1, 0, 2), "it changes f32[2, 3, 4] into f32[2, 2, 4]"),
    "slice from one": (lambda x: aten.slice(x, 1, 1, 3), "found 1"),
    "slice with a step": (lambda x: aten.slice(x, 1, 0, 3, 2), "slice has step=2"),
    "cast": (to(torch.float64), "it changes f32[2, 3, 4] into f64[2, 3, 4]"),
    "cast to half": (to(torch.float16), "it changes f32[2, 3, 4] into f16[2, 3, 4]"),
    "transpose of other axes": (lambda x: x.transpose(1, 2).transpose(0, 1), "'axis0' occurs twice with two values"),
    "one transpose": (lambda x: x.transpose(1, 2), "expected transpose, found %add = add"),
    "memory format": (lambda x: cast(x, memory_format=torch.contiguous_format), "has memory_format"),
}


@pytest.mark.parametrize(("change", "reason"), CHANGING.values(), ids=list(CHANGING))
def test_what_changes_something(change: Change, reason: str) -> None:
    found = rejections(RULE, around(change), X) + reasons(RULE, around(change), X)
    assert any(reason in each for each in found)


def test_expanded_axis_of_one() -> None:
    assert reasons(RULE, around(lambda x: x.expand(2, 3, 4)), normal(2, 1, 4)) == [
        "it changes f32[2, 1, 4] into f32[2, 3, 4]"
    ]


LOSSY = [(a, b) for a, b in product(("float64", "float32", "float16", "bfloat16", "int32"), repeat=2) if a != b]
EXACT = {("float16", "float32"), ("bfloat16", "float32"), ("float32", "float64")}


@pytest.mark.parametrize(("dtype", "through"), [pair for pair in LOSSY if pair not in EXACT])
def test_casts_there_and_back_that_may_lose_digits(dtype: str, through: str) -> None:
    outer, inner = getattr(torch, dtype), getattr(torch, through)
    function = lambda x: to(outer)(to(inner)(x.clone())).neg()  # noqa: E731
    (reason, *_) = reasons(RULE, function, (X * 100).to(outer))
    assert reason == "the first cast may lose digits"


def test_float64_through_float32() -> None:
    value = torch.tensor([1 + 1e-12, 1e300], dtype=torch.float64)
    function = lambda x: to(torch.float64)(to(torch.float32)(x.clone())) * 1.0  # noqa: E731
    after, _ = apply(RULE, traced(function, value))
    assert interpret(after, [value])[0].tolist() == [1.0, float("inf")]


@pytest.mark.parametrize("through", [torch.int32, torch.float32, torch.uint8])
def test_booleans_through_numbers(through: torch.dtype) -> None:
    function = lambda x: to(torch.bool)(to(through)(x.clone())).logical_not()  # noqa: E731
    assert reasons(RULE, function, X > 0)[0] == "the first cast may lose digits"


def test_numbers_through_booleans() -> None:
    function = lambda x: to(torch.int64)(to(torch.bool)(x.clone())) + 1  # noqa: E731
    assert reasons(RULE, function, torch.arange(4))[0] == "the first cast may lose digits"


def test_inner_value_used_elsewhere() -> None:
    def casts(x: Tensor) -> tuple[Tensor, Tensor]:
        y = cast(x + 1, dtype=torch.float64)
        return cast(y, dtype=torch.float32) * 2, y

    def transposes(x: Tensor) -> tuple[Tensor, Tensor]:
        y = (x + 1).transpose(1, 2)
        return y.transpose(1, 2) * 2, y.neg()

    assert reasons(RULE, casts, X)[0] == "inner value %_to_copy is also used by %output"
    assert reasons(RULE, transposes, X)[0] == "inner value %transpose is also used by %neg"

    def reshapes(x: Tensor) -> tuple[Tensor, Tensor]:
        y = reshape(x + 1, [6, 4])
        return reshape(y, [24]) * 2, y.neg()

    assert reasons(RULE, reshapes, X)[0] == "inner value %reshape is also used by %neg"


MEMORY = "without the copy an output could share memory with an input or a weight"


def test_cast_that_is_the_copy_of_an_output() -> None:
    for function in (
        lambda x: cast(x, dtype=torch.float32),
        lambda x: cast((x + 1)[0], dtype=torch.float32),
        lambda x: (lambda y: (y, cast(y, dtype=torch.float32)))(x + 1),
    ):
        assert MEMORY in rejections(RULE, function, X)
        assert reasons(RULE, function, X)


def test_cast_that_is_the_copy_of_an_input_or_weight() -> None:
    assert rejections(RULE, lambda x: cast(x, dtype=torch.float32).unsqueeze(0), X) == [MEMORY]
    assert rejections(RULE, lambda x, w: cast(w, dtype=torch.float32).unsqueeze(0) + x, X, w=X * 2) == [MEMORY]


def test_reshapes_that_end_in_an_output() -> None:
    """The first copies, so that the output is new; one reshape back to the shape of the input would be a view of it."""

    def back(x: Tensor) -> Tensor:
        return reshape(reshape(x.transpose(0, 1), [24]), [3, 2, 4])

    assert "one of two reshapes may copy an output" in reasons(RULE, back, X)
    assert apply(RULE, traced(lambda x: reshape(reshape(x, [6, 4]), [24]), X))[1] == []


@pytest.mark.parametrize("view", [lambda y: y.transpose(0, 1), lambda y: y.unsqueeze(0), lambda y: y[0]])
def test_copies_whose_views_are_outputs(view: Change) -> None:
    """A write to one output must not be seen in the other."""
    copies: list[Change] = [
        lambda y: cast(y, dtype=torch.float32),
        lambda y: cast(cast(y, dtype=torch.float64), dtype=torch.float32),
        lambda y: reshape(reshape(y.transpose(0, 1), [24]), [3, 2, 4]),
    ]
    for copy in copies:
        rewritten(RULE, with_view(lambda y, copy=copy: view(copy(y))), X)


def with_view(copied: Change) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    def function(x: Tensor) -> tuple[Tensor, Tensor]:
        y = x + 1
        return y, copied(y)

    return function
