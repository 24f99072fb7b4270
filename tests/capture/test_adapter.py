"""Tells when the private names of torch that tell of sizes move."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.export import Dim

from tests.small import graph_of, module
from txgraph.capture.adapter import conditions_on_sizes, forms_check

X = torch.ones(5, 3)


def test_what_the_code_asked_of_sizes() -> None:
    model = module(lambda x: x + 1 if x.shape[0] % 2 else x - 1)
    graph = graph_of(model, X, dynamic_shapes=({0: Dim.AUTO},))
    (condition,) = (c for c in conditions_on_sizes(graph) if "Mod" in str(c))
    (symbol,) = condition.free_symbols
    assert [bool(condition.subs(symbol, size)) for size in (4, 5, 6, 7)] == [False, True, False, True]


def test_static_sizes_have_no_conditions() -> None:
    assert list(conditions_on_sizes(graph_of(module(lambda x: x + 1), X))) == []


def of_data(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[torch.Tensor], None]:
    def apply(tensor: torch.Tensor) -> None:
        tensor.data = change(tensor.data)

    return apply


CHANGES: dict[str, tuple[Callable[[torch.Tensor], object], bool]] = {
    "nothing": (lambda t: None, True),
    "values": (lambda t: t.data.mul_(2), True),
    "dtype": (of_data(torch.Tensor.double), False),
    "sizes": (of_data(lambda t: t[:2]), False),
    "strides": (of_data(torch.Tensor.t), False),
}


@pytest.mark.parametrize("name", CHANGES)
def test_forms_of_tensors(name: str) -> None:
    change, same = CHANGES[name]
    tensors = [torch.nn.Parameter(torch.ones(4, 4)), torch.ones(3, dtype=torch.int64), torch.ones(())]
    check = forms_check(tensors)
    assert check()
    change(tensors[0])
    assert check() is same


def test_forms_in_another_mode() -> None:
    """It may fail where nothing has changed; what is asked in the same mode again does not."""
    tensors = [torch.nn.Parameter(torch.ones(4, 4))]
    with torch.inference_mode():
        assert forms_check(tensors)()
    with torch.autocast("cpu", torch.bfloat16):
        assert forms_check(tensors)()
    assert forms_check([])()
