"""A check in C: what it sees, what it doubts, and that it keeps nothing."""

from __future__ import annotations

import platform
import sys
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from txgraph.capture import adapter, unchanged
from txgraph.capture.unchanged import unchanged_check

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64", reason="compiled on Linux with x86-64"
)


def test_it_is_compiled() -> None:
    """If not: the source was changed, and `pip install -e .` brings it up to date."""
    assert unchanged._library() is not None
    assert unchanged_check([])()


def test_it_sees_what_holds_a_value() -> None:
    value, other, items = object(), object(), [object(), object()]
    holder = {"name": value}
    check = unchanged_check([(holder, "name", value), (items, 1, items[1])])
    assert check()
    holder["name"] = other
    assert not check()
    holder["name"] = value
    assert check()
    items[1] = other
    assert not check()
    items.pop()
    assert not check()
    items.append(check.args[2][1])  # the second value
    assert check()
    del holder["name"]
    assert not check()


def test_a_value_that_is_equal_is_another() -> None:
    holder = {"name": [1]}
    check = unchanged_check([(holder, "name", holder["name"])])
    holder["name"] = [1]
    assert not check()


class Raises:
    def __getitem__(self, key: object) -> object:
        raise LookupError(key)


def test_errors_are_doubts() -> None:
    """None of them is left for whoever comes next."""
    assert not unchanged_check([(Raises(), 0, None)])()
    assert not unchanged_check([({}, "name", None)])()
    assert unchanged_check([({"name": None}, "name", None)])()


def test_it_sees_sizes() -> None:
    some: dict[str, int] = {}
    check = unchanged_check([], [{"a": 1}, some])
    assert check()
    some["b"] = 2
    assert not check()


CHANGES: dict[str, Any] = {
    "values": (lambda t: t.data.mul_(2), True),
    "gradient": (lambda t: setattr(t, "grad", torch.ones_like(t)), True),
    "new memory": (lambda t: setattr(t, "data", t.data.clone()), False),
    "dtype": (lambda t: setattr(t, "data", t.data.double()), False),
    "fewer rows": (lambda t: setattr(t, "data", t.data[:2]), False),
    "fewer axes": (lambda t: setattr(t, "data", t.data.view(16)), False),
    "transposed": (lambda t: t.t_(), False),
    "other strides": (lambda t: setattr(t, "data", t.data.t()), False),
    "its middle": (lambda t: setattr(t, "data", t.data[1:3]), False),
}


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("at", range(3))
def test_it_sees_the_form_of_tensors(name: str, at: int) -> None:
    change, same = CHANGES[name]
    tensors: list[torch.Tensor] = [nn.Parameter(torch.ones(4, 4), requires_grad=False) for _ in range(3)]
    check = unchanged_check([], [], [torch.ones(()), *tensors, torch.ones(2, 3, 0, dtype=torch.bool)])
    assert check()
    change(tensors[at])
    assert check() is same


def test_only_the_dtype() -> None:
    tensor = torch.ones(4, dtype=torch.int32)
    check = unchanged_check([], [], [tensor])
    tensor.data = tensor.data.view(torch.float32)
    assert not check()


def test_tensors_that_it_cannot_read_are_doubts() -> None:
    sparse = torch.ones(3, 3).to_sparse()
    assert not unchanged_check([], [], [sparse])()
    assert not unchanged_check([], [], [torch.ones(3), sparse])()


def test_a_torch_that_is_made_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter, "_offset", lambda tensor: None)
    assert not unchanged_check([], [], [torch.ones(3)])()
    monkeypatch.undo()
    monkeypatch.setattr(adapter, "_shim", lambda: None)
    assert not unchanged_check([])()


def test_it_keeps_nothing() -> None:
    value, tensor = object(), torch.ones(3)
    holder = [value]
    check = unchanged_check([(holder, 0, value)], [], [tensor])
    before = [sys.getrefcount(each) for each in (value, tensor, holder)]
    assert all(check() for _ in range(100))
    assert [sys.getrefcount(each) for each in (value, tensor, holder)] == before


@given(st.lists(st.lists(st.integers(0, 3), max_size=4), max_size=6), st.data())
def test_any_shapes(shapes: list[list[int]], data: st.DataObject) -> None:
    tensors = [torch.zeros(shape) for shape in shapes]
    check = unchanged_check([], [], tensors)
    assert check()
    if tensors:
        at = data.draw(st.integers(0, len(tensors) - 1))
        tensors[at].data = torch.zeros(*shapes[at], 5)
        assert not check()


def test_a_real_model() -> None:
    model = transformers.BertModel(transformers.BertConfig(num_hidden_layers=1, hidden_size=24, num_attention_heads=2))
    slots = [(m._parameters, name, p) for m in model.modules() for name, p in m._parameters.items()]
    check = unchanged_check(slots, [m._parameters for m in model.modules()], list(model.parameters()))
    assert check()
    model.pooler.dense.bias.data = torch.zeros(24)
    assert not check()
