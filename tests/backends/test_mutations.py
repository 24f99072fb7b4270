"""Writes in place: which are, what the generated code then does, and that nothing else sees them too early."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import txgraph
from tests.small import module
from txgraph.backends.inductor.mutations import written_in_place
from txgraph.backends.pieces import whole

ROWS = 61  # of the cache: no other size of these graphs


class Cache(nn.Module):
    """Writes rows into a cache that is an input, or a buffer, and attends to it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.project = nn.Linear(8, 8)
        self.register_buffer("seen", torch.zeros(1, 2, ROWS, 4))

    def forward(self, x: torch.Tensor, cache: torch.Tensor, length: torch.Tensor) -> torch.Tensor:
        rows = self.project(x).unflatten(-1, (2, 4)).transpose(1, 2)
        places = torch.arange(x.shape[1]) + length
        cache.index_copy_(2, places, rows)
        self.seen.index_copy_(2, places, rows)
        length += x.shape[1]
        return torch.softmax(rows @ cache.transpose(2, 3), -1) @ self.seen


def inputs() -> tuple[torch.Tensor, ...]:
    return torch.randn(1, 1, 8), torch.zeros(1, 2, ROWS, 4), torch.tensor(3)


def allocated(code: str) -> list[str]:
    """Shapes of the buffers that compiled code allocates."""
    return re.findall(r"= empty_strided_cpu\(\(([^)]*)\)", code)


def test_rows_are_written_and_nothing_else_is() -> None:
    model, reference = Cache().eval(), Cache().eval()
    given, expected = inputs(), inputs()
    fast = txgraph.optimize(model, args=inputs(), backend="inductor")
    assert not model.seen.any(), "compiling and checking leave no trace"
    memory, versions = [t.data_ptr() for t in (*given, model.seen)], [t._version for t in given]
    expected = (given[0], *expected[1:])
    for _ in range(3):
        torch.testing.assert_close(fast(*given), reference(*expected))
    for ours, eager in zip((*given, model.seen), (*expected, reference.seen), strict=True):
        torch.testing.assert_close(ours, eager)
    assert [t.data_ptr() for t in (*given, model.seen)] == memory
    assert all(t._version > was for t, was in zip(given[1:], versions[1:], strict=True))
    compiled = fast._compiled[-1].compiled
    assert [fast.graph_after.mutations[at].target for at in compiled.in_place] == ["seen", "cache"]
    assert not [shape for shape in allocated(compiled.code) if str(ROWS) in shape]
    assert not fast.report.fallbacks


def test_the_measure_sees_whole_copies() -> None:
    """The old value is an output, too: then the new one is computed as a whole."""

    def both(x: torch.Tensor, cache: torch.Tensor) -> torch.Tensor:
        old = cache.clone()
        cache.index_copy_(1, torch.tensor([2]), x)
        return old

    given = torch.ones(4, 1), torch.zeros(4, ROWS)
    fast = txgraph.optimize(module(both), args=(torch.ones(4, 1), torch.zeros(4, ROWS)), backend="inductor")
    assert not fast(*given).any()
    assert given[1].sum() == 4
    assert [shape for shape in allocated(fast.code()) if str(ROWS) in shape]


def keeps_old(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """A view of the old value is an output."""
    old = x.clone()
    x.copy_(y * 2)
    return old.reshape(-1)


def gives_new(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    x.add_(y)
    return x


def exchanges(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    old = x.clone()
    x.copy_(y)
    y.copy_(old)
    return x + y


def reads_before(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    total = x.sum(0)
    x.mul_(2)
    return total + y


def writes_twice(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    x[0] += 1
    part = x[:1] * y[:1]
    x[1:] = part
    return part


def adds_rows(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    x[1:] += y[1:]
    return x * y


def writes_all(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    x.fill_(3.0)
    return x * y


@pytest.mark.parametrize("contiguous", [True, False])
@pytest.mark.parametrize(
    "function",
    [keeps_old, gives_new, exchanges, reads_before, writes_twice, adds_rows, writes_all],
    ids=lambda f: f.__name__,
)
def test_as_in_eager(function: Callable[..., Any], contiguous: bool) -> None:
    """Also where the call brings another layout than the code was compiled for."""

    def made(seed: int) -> list[torch.Tensor]:
        torch.manual_seed(seed)
        both = [torch.randn(3, 4), torch.randn(3, 4)]
        return both if contiguous else [t.t().contiguous().t() for t in both]

    fast = txgraph.optimize(module(function), args=(torch.randn(3, 4), torch.randn(3, 4)), backend="inductor")
    for seed in range(2):
        ours, eager = made(seed), made(seed)
        torch.testing.assert_close(fast(*ours), function(*eager), rtol=0, atol=0)
        torch.testing.assert_close(ours, eager, rtol=0, atol=0)
    assert not fast.report.fallbacks


def test_which_are_written() -> None:
    def names(function: Callable[..., Any], **parts: Any) -> set[str]:
        fast = txgraph.optimize(
            module(function, **parts), args=(torch.randn(3, 4), torch.randn(3, 4)), backend="reference", verify="off"
        )
        return set(written_in_place(fast.graph_after, whole(fast.graph_after)).values())

    assert names(adds_rows) == {"x"}
    assert names(keeps_old) == set()  # the old value is an output
    assert names(reads_before) == set()  # or something is computed of it
    assert names(gives_new) == set()  # and here the new one
    assert names(exchanges) == set()


def test_buffers_that_share_memory_are_copied() -> None:
    class Halves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            whole = torch.zeros(2, 4)
            self.register_buffer("first", whole[0])
            self.register_buffer("second", whole[1])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.first += x
            self.second += 2 * x
            return self.first * self.second

    model, reference = Halves(), Halves()
    fast = txgraph.optimize(model, args=(torch.ones(4),), backend="inductor")
    for _ in range(2):
        torch.testing.assert_close(fast(torch.ones(4)), reference(torch.ones(4)))
    assert not fast._compiled[-1].compiled.in_place
    assert torch.equal(model.first, reference.first)


def test_copies_of_a_layer_write_their_own() -> None:
    """One code for all copies: each writes to the cache that it is given."""

    class Layers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(4))

        def forward(self, x: torch.Tensor, caches: list[torch.Tensor], place: torch.Tensor) -> torch.Tensor:
            for layer, cache in zip(self.layers, caches, strict=True):
                cache.index_copy_(1, place, layer(x))
                x = x + torch.softmax(x @ cache.transpose(1, 2), -1) @ cache
            return x

    def calls() -> tuple[torch.Tensor, list[torch.Tensor], torch.Tensor]:
        torch.manual_seed(1)
        return torch.randn(1, 1, 8), [torch.randn(1, ROWS, 8) for _ in range(4)], torch.tensor([5])

    model = Layers().eval()
    fast = txgraph.optimize(model, args=calls(), backend="inductor", options={"layers": True})
    ours, eager = calls(), calls()
    with torch.no_grad():
        torch.testing.assert_close(fast(*ours), model(*eager))
    torch.testing.assert_close(ours, eager, rtol=1e-5, atol=1e-5)
    assert fast._compiled[-1].compiled.in_place == {0, 1, 2, 3}
    assert not fast.report.fallbacks
