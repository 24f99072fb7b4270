"""Writes become values, and the program is traced a second time only where they do not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils import _pytree as pytree

from tests.small import graph_of
from tests.zoo import ZOO
from txgraph import optimize
from txgraph.capture import capture, export, functional
from txgraph.ir import check_spec, interpret

Tensor = torch.Tensor
X = torch.arange(24.0).reshape(4, 6) - 9.5
DYNAMIC = {"x": {0: torch.export.Dim.AUTO}}


def twice(x: Tensor) -> Tensor:
    x.add_(1)
    x.mul_(x)
    return x - 1


def by_another_name(x: Tensor) -> tuple[Tensor, Tensor]:
    y = x + 1
    same, read_before = y.detach(), y[0].sin()
    same.mul_(2)
    return y.cos(), read_before


def of_a_part_made_later(x: Tensor) -> Tensor:
    y = x + 1
    y.neg_()
    return y[1:] * y[:1]


def in_another_dtype(x: Tensor) -> Tensor:
    y = x.half()
    y.add_(x)
    return y.mul_(2.5)


def copied(x: Tensor) -> Tensor:
    x.copy_(x[:1] * 2)
    return x + 1


def filled(x: Tensor) -> Tensor:
    return torch.zeros_like(x).masked_fill_(x > 0, 3.0).index_put_((torch.tensor([1]),), torch.tensor(5.0))


def through_idle_dropout(x: Tensor) -> tuple[Tensor, Tensor]:
    given = F.dropout(x, 0.5, training=False)
    x.add_(1)
    return given * 2, x.sin()


PLAIN: dict[str, Callable[[Tensor], Any]] = {
    **{f.__name__: f for f in (twice, by_another_name, of_a_part_made_later, in_another_dtype, copied, filled)},
    "through idle dropout": through_idle_dropout,
    "through the same dtype": lambda x: (x.type_as(x).add_(1), x.sin()),
    "a constant": lambda x: x + torch.tensor([1.0, 2, 3, 4, 5, 6]),
    "a copy or none": lambda x: (x.contiguous() + 1, x.t().contiguous().sin(), x.to(torch.float32).cos()),
    "dtypes": lambda x: (x.to(torch.float64).type_as(x) * x.half(), x.to("cpu", torch.int64)),
    "merged axes": lambda x: (x.t().flatten().sin(), x.unflatten(1, (2, 3)).flatten(0, 1).cos(), x.t().reshape(-1)),
    "pieces": lambda x: [piece.sin() for piece in x.chunk(2, 1)],
    "transposed": lambda x: (x.T @ x, x.mT.expand_as(x.t()) + 1),
}


def to_a_slice(x: Tensor) -> Tensor:
    y = x + 1
    y[0] = 3.0
    return y.sin()


def a_part_made_before(x: Tensor) -> Tensor:
    y = x + 1
    row = y[0]
    y.mul_(2)
    return row + y


def a_part_of_dropout_made_before(x: Tensor) -> Tensor:
    row = F.dropout(x, 0.5, training=False)[0]
    x.mul_(2)
    return row + x


def pieces_made_before(x: Tensor) -> Tensor:
    y = x + 1
    first, second = y.chunk(2)
    y.mul_(2)
    return first - second


def another_shape(x: Tensor) -> Tensor:
    y = x.sin()
    y.t_()
    return y @ x


def under_autocast(x: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return x @ x.t()


def a_part_by_another_name(x: Tensor) -> Tensor:
    same = x.type_as(x)
    same[1].mul_(2)
    return x + 1


def mapped(x: Tensor) -> Tensor:
    return torch.vmap(lambda row: row.sin() * 2)(x)


OTHER = [
    to_a_slice,
    a_part_made_before,
    a_part_of_dropout_made_before,
    pieces_made_before,
    another_shape,
    under_autocast,
]


@pytest.fixture
def traces(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What was traced again."""
    found, real = [], functional._traced_again
    monkeypatch.setattr(functional, "_traced_again", lambda exported: found.append(exported) or real(exported))
    return found


def assert_as_eager(function: Callable[[Tensor], Any], dynamic: bool) -> None:
    """Outputs, and what is written to the input, at another size as well."""
    graph = graph_of(function, X.clone(), dynamic_shapes=DYNAMIC if dynamic else None)
    check_spec(graph)
    for given in (X, X.repeat(2, 1)) if dynamic else (X,):
        x, expected = given.clone(), given.clone()
        results = interpret(graph, [x])
        returned = pytree.tree_leaves(function(expected))
        written = [] if torch.equal(expected, given) else [expected]
        assert len(graph.mutations) == len(written)
        for one, other in zip(results, (*written, *returned), strict=True):
            assert one.dtype == other.dtype
            assert torch.equal(one, other)
        assert torch.equal(x, given)


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize("function", PLAIN.values(), ids=PLAIN)
def test_plain_writes_become_values(function: Callable[[Tensor], Any], dynamic: bool, traces: list[object]) -> None:
    assert_as_eager(function, dynamic)
    assert not traces


@pytest.mark.parametrize("function", OTHER)
def test_other_programs_are_traced_again(function: Callable[[Tensor], Any], traces: list[object]) -> None:
    assert_as_eager(function, dynamic=False)
    assert len(traces) == 1


@pytest.mark.parametrize("name", ["t5-sdpa", "mixtral-eager", "nn.TransformerEncoder"])
def test_passes_make_the_same_of_both(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = ZOO[name].inputs(2, 12)
    ours = optimize(ZOO[name].model(), kwargs=inputs, backend="reference", verify="off").graph_after
    monkeypatch.setattr(export, "functional", functional._traced_again)
    torchs = optimize(ZOO[name].model(), kwargs=inputs, backend="reference", verify="off").graph_after
    assert ours.count() == torchs.count()


def test_buffers_and_inputs_that_are_written_come_first() -> None:
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: Tensor, total: Tensor) -> Tensor:
            total.index_copy_(0, torch.tensor([1]), x[:1])
            self.calls += 1
            return x * self.calls

    graph = graph_of(Counts(), X, torch.zeros_like(X))
    assert [(m.kind, m.target) for m in graph.mutations] == [("buffer", "calls"), ("input", "total")]
    calls, total, y = interpret(graph, [X, torch.zeros_like(X)])
    assert (calls, total[1].tolist(), total[0].tolist()) == (1, X[0].tolist(), [0.0] * 6)
    assert torch.equal(y, X)


def test_buffers_that_change_places() -> None:
    class Exchanges(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("back", torch.ones(6))
            self.register_buffer("front", torch.zeros(6))

        def forward(self, x: Tensor) -> Tensor:
            held = self.front.clone()
            self.front.copy_(self.back)
            self.back.copy_(held)
            return x + self.front

    graph = graph_of(Exchanges(), X)
    assert graph.count() == {"clone": 1, "add": 1}
    assert [value.flatten()[0] for value in interpret(graph, [X])] == [0, 1, X[0, 0] + 1]


@pytest.mark.parametrize("name", [n for n in ZOO if n.endswith(("-sdpa", "nn.Transformer")) and "beit" not in n])
def test_architectures_are_traced_once(name: str, traces: list[object]) -> None:
    """All but BEiT, which writes to parts of a table."""
    capture(ZOO[name].model(), (), ZOO[name].inputs(2, 12))
    assert not traces
