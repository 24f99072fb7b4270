"""Calls in any legal mixture of arguments come to one flat form, and one normal form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from txgraph.capture import CallSignature

A, B, C = torch.ones(1), torch.ones(2), torch.ones(3)
TEXT = bytearray(b"text")


def forward(ids: Any, mask: Any = None, *, scale: float = 1.0, extra: Any = None) -> None:
    """The signature of most tests."""


def flat(function: Callable[..., Any], *args: Any, **kwargs: Any) -> tuple[list[int], tuple[Any, ...]]:
    """The sizes of the tensors, which tell them apart, and the structure."""
    call = CallSignature(function).flatten(args, kwargs)
    return [t.numel() for t in call.tensors], call.structure


MIXTURES: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
    ((A, B), {}),
    ((A,), {"mask": B}),
    ((), {"ids": A, "mask": B}),
    ((), {"mask": B, "ids": A}),
    ((A, B), {"scale": 1.0}),
    ((A,), {"extra": None, "mask": B}),
    ((), {"scale": 1.0, "extra": None, "mask": B, "ids": A}),
]


@pytest.mark.parametrize(("args", "kwargs"), MIXTURES)
def test_every_mixture_gives_one_call(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    assert flat(forward, *args, **kwargs) == ([1, 2], ("ids", "mask"))
    assert CallSignature(forward).normalise(args, kwargs) == ((), {"ids": A, "mask": B})


def test_plain_values_are_part_of_the_structure() -> None:
    signature = CallSignature(forward)
    structures = [
        signature.flatten((A,), {}),
        signature.flatten((A,), {"scale": 2.0}),
        signature.flatten((A,), {"scale": 2}),
        signature.flatten((A,), {"scale": True}),
        signature.flatten((A,), {"scale": None}),
        signature.flatten((A,), {"extra": 2.0}),
        signature.flatten((A,), {"extra": "text"}),
        signature.flatten((A,), {"extra": torch.float16}),
        signature.flatten((A,), {"mask": 1}),
        signature.flatten((A,), {"mask": B}),
    ]
    assert len({call.structure for call in structures}) == len(structures)
    assert signature.flatten((A, None), {"scale": 1.0}) == structures[0]


def test_a_default_is_left_out_only_if_it_is_of_the_same_type() -> None:
    assert flat(forward, A, scale=1.0)[1] == ("ids",)
    assert flat(forward, A, scale=1)[1] == ("ids", ("scale", int, 1))
    assert flat(forward, A, scale=True)[1] == ("ids", ("scale", bool, True))


def test_containers() -> None:
    calls = [
        flat(forward, [A, B]),
        flat(forward, (A, B)),
        flat(forward, {"x": A, "y": B}),
        flat(forward, {"x": A, "z": B}),
        flat(forward, [A, [B]]),
        flat(forward, [A, B, 3]),
        flat(forward, [A, B, 4]),
        flat(forward, [A, B, None]),
        flat(forward, A, [B]),
    ]
    assert all(sizes == [1, 2] for sizes, _ in calls)
    structures = [structure for _, structure in calls]
    assert len(set(structures)) == len(structures)
    assert flat(forward, {"x": A, "y": B}) == flat(forward, {"x": A, "y": B})


def test_hugging_face_outputs_are_containers() -> None:
    from transformers.modeling_outputs import BaseModelOutput

    sizes, structure = flat(forward, BaseModelOutput(last_hidden_state=A, hidden_states=(B, C)))
    assert sizes == [1, 2, 3]
    assert structure != flat(forward, [A, B, C])[1]


def test_variable_arguments() -> None:
    def variable(first: Any, *rest: Any, last: Any = None) -> None: ...

    assert flat(variable, A, B, C, last=A) == ([1, 2, 3, 1], ("first", "rest", "rest", "last"))
    assert CallSignature(variable).normalise((A, B, C), {"last": A}) == ((A, B, C), {"last": A})
    assert CallSignature(variable).normalise((A,), {}) == ((), {"first": A})
    assert flat(variable, A, B)[1] != flat(variable, A, B, C)[1]


def test_further_keywords_stay_in_order_behind_those_of_the_signature() -> None:
    def variable(x: Any, **others: Any) -> None: ...

    assert flat(variable, z=B, y=C, x=A) == ([1, 2, 3], ("x", "z", "y"))
    assert flat(variable, A, y=C, z=B) == ([1, 3, 2], ("x", "y", "z"))
    assert list(CallSignature(variable).normalise((A,), {"z": B, "y": C})[1]) == ["x", "z", "y"]


@pytest.mark.parametrize(
    ("value", "equal", "other"),
    [
        (np.ones(2), np.ones(2), np.zeros(2)),
        (np.ones(2), np.ones(2), np.ones(2, np.float32)),
        (np.ones(2), np.ones(2), np.ones((2, 1))),
        ({1, 2}, {2, 1}, {1.0, 2}),
        (TEXT, TEXT, bytearray(TEXT)),
    ],
    ids=["array", "array of another dtype", "array of another shape", "set", "bytes"],
)
def test_values_that_have_no_hash(value: Any, equal: Any, other: Any) -> None:
    def model(x: Any, other: Any = None) -> None: ...

    mine, same, apart = (flat(model, A, each)[1] for each in (value, equal, other))
    assert (mine == same, hash(mine) == hash(same), mine == apart) == (True, True, False)


def test_positional_only_arguments_stay_positional() -> None:
    def positional(x: Any, y: Any = None, /, z: Any = None) -> None: ...

    assert CallSignature(positional).normalise((A, B), {"z": C}) == ((A, B), {"z": C})
    assert CallSignature(positional).normalise((A, B, C), {}) == ((A, B), {"z": C})
    assert flat(positional, A, B, C) == flat(positional, A, B, z=C)


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [((), {}), ((A,), {"nothing": 1}), ((A,), {"ids": A}), ((A, B, C), {}), ((), {"mask": B})],
)
def test_wrong_arguments_raise_as_in_eager(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    class Model(nn.Module):
        def forward(self, ids: Any, mask: Any = None) -> None: ...

    model = Model()
    with pytest.raises(TypeError):
        model(*args, **kwargs)
    with pytest.raises(TypeError, match=r"Model\.forward\(\) .*(argument|values)"):
        CallSignature.of(model).flatten(args, kwargs)


def test_plans_are_kept_by_the_form_of_a_call() -> None:
    signature = CallSignature(forward)
    for _ in range(3):
        signature.flatten((A, B), {})
        signature.flatten((A,), {"mask": B})
    assert len(signature._plans) == 2


def test_arguments_by_parameter() -> None:
    def variable(x: Any, *rest: Any, last: Any = None, **others: Any) -> None: ...

    signature = CallSignature(variable)
    assert signature.arrange((1, 2, 3), {"last": 4}) == {"x": 1, "rest": (2, 3), "last": 4}
    assert signature.without_parameter({"last": 4, "more": 5}) == {"more": 5}
    assert CallSignature(forward).arrange((), {"ids": 1, "extra": None}) == {"ids": 1, "extra": None}


def test_names() -> None:
    assert CallSignature(forward).names(3) == ["ids", "mask", "scale"]
