"""What a model writes in place: through views, to its buffers, to its inputs, and what those share."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import txgraph
from tests.reliability.block import optimized
from tests.small import assert_as_eager, module

X = torch.arange(8.0).reshape(2, 4)


class Writes(nn.Module):
    """Writes to two buffers, to its input through two views, and gives out what was there before."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("first", torch.ones(4))
        self.register_buffer("second", torch.full((4,), 2.0))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        held, before = self.first.clone(), x.clone()
        self.first.add_(self.second)
        self.second.copy_(held)
        self.second.view(2, 2)[1].add_(1)
        x[:, 0].zero_()
        x.t()[1].mul_(2)
        return x + self.first, held, before


def laid_out() -> torch.Tensor:
    """[2, 4], neither contiguous nor dense."""
    return torch.arange(16.0).reshape(4, 4).t()[::2]


@pytest.mark.parametrize("backend", ["reference", "inductor"])
def test_writes_through_views_reach_inputs_and_buffers_of_any_layout(backend: str) -> None:
    model, twin = Writes(), Writes()
    fast = optimized(model, X.clone(), backend=backend)
    assert all(torch.equal(a, b) for a, b in zip(model.buffers(), twin.buffers(), strict=True))
    for make in (X.clone, laid_out, X.clone):
        ours, eager = make(), make()
        assert all(torch.equal(a, b) for a, b in zip(fast(ours), twin(eager), strict=True))
        assert torch.equal(ours, eager)
        assert all(torch.equal(a, b) for a, b in zip(model.buffers(), twin.buffers(), strict=True))
    assert len(fast.report.graphs) == 1


class Exchanges(nn.Module):
    """Exchanges two buffers, which are registered in either order."""

    def __init__(self, order: str) -> None:
        super().__init__()
        for at, name in enumerate(order.split()):
            self.register_buffer(name, torch.full((4,), at + 1.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        held = self.front.clone()
        self.front.copy_(self.back)
        self.back.copy_(held)
        return x + self.front


@pytest.mark.parametrize("order", ["front back", "back front"])
def test_buffers_that_are_exchanged(order: str) -> None:
    """Whatever is written first, the other gets what was there before."""
    model, twin = Exchanges(order), Exchanges(order)
    fast = optimized(model, X)
    for _ in range(3):
        assert torch.equal(fast(X), twin(X))
        assert all(torch.equal(a, b) for a, b in zip(model.buffers(), twin.buffers(), strict=True))


class Cache(nn.Module):
    """Keys of earlier calls in a buffer, written at a place that each call gives."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.key = nn.Linear(4, 4)
        self.register_buffer("keys", torch.zeros(6, 4))

    def forward(self, x: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        self.keys[at] = self.key(x)
        return torch.softmax(x @ self.keys.t(), -1) @ self.keys


def test_a_cache_in_a_buffer() -> None:
    model = Cache().eval()
    twin = copy.deepcopy(model)
    fast = optimized(model, X, torch.tensor([0, 1]))
    for at in ([0, 1], [2, 3], [1, 4]):
        torch.testing.assert_close(fast(X + at[0], torch.tensor(at)), twin(X + at[0], torch.tensor(at)))
        torch.testing.assert_close(model.keys, twin.keys)
    model.keys.zero_()  # a new conversation: written from outside
    twin.keys.zero_()
    torch.testing.assert_close(fast(X, torch.tensor([5, 0])), twin(X, torch.tensor([5, 0])))
    assert len(fast.report.graphs) == 1


def test_statistics_of_a_batch_norm_in_training() -> None:
    """Train, eval, train: the running statistics are eager's after each call, and none of them is stale."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)).eval()
    twin = copy.deepcopy(model)
    fast = optimized(model, X)
    for training in (False, True, True, False, True, False):
        fast.train(training)
        twin.train(training)
        if not training:
            assert_as_eager(fast(X), twin, X)
        else:
            torch.testing.assert_close(fast(X), twin(X))
        for ours, eager in zip(model.buffers(), twin.buffers(), strict=True):
            torch.testing.assert_close(ours, eager)


def test_a_write_that_eager_refuses_is_refused() -> None:
    fast = optimized(module(lambda x: x.add_(1) * 2), X.clone())
    shared = torch.zeros(1, 4).expand(2, 4)
    with pytest.raises(RuntimeError, match="more than one element of the written-to tensor"):
        fast(shared)
    assert torch.equal(shared, torch.zeros(2, 4))


@pytest.mark.parametrize(
    ("first", "second"),
    [(slice(0, 2), slice(1, 3)), (slice(0, 2), slice(2, 4)), (slice(1, 3), slice(0, 2))],
    ids=["overlap", "side by side", "overlap from behind"],
)
def test_slices_of_one_tensor_on_a_later_call(first: slice, second: slice) -> None:
    """Refused, and nothing was written: also where the slices only stand side by side."""
    fast = optimized(module(lambda x, y: x.add_(1) * y), X.clone(), X.clone())
    whole = torch.arange(16.0).reshape(4, 4)
    with pytest.raises(txgraph.GuardFailed, match=r"two inputs of this call share memory: pass a clone"):
        fast(whole[first], whole[second])
    assert torch.equal(whole, torch.arange(16.0).reshape(4, 4))


def test_inputs_that_overlap_and_are_only_read() -> None:
    model = module(lambda x, y: x * 2 + y)
    fast = optimized(model, X.clone(), X.clone())
    whole = torch.arange(16.0).reshape(4, 4)
    assert torch.equal(fast(whole[0:2], whole[1:3]), model(whole[0:2], whole[1:3]))
    assert torch.equal(fast(X, X), model(X, X))


class Counts(nn.Module):
    """Writes to a buffer, and reads an input after that."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(4))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self.count.add_(1)
        return x + self.count, self.count


def test_a_buffer_that_is_given_as_the_input() -> None:
    """An input that overlaps what the model writes: eager's answer, or refused."""
    model, twin = Counts(), Counts()
    fast = optimized(model, torch.zeros(4), verify="off")
    try:
        result, _ = fast(model.count)
    except txgraph.GuardFailed:
        return
    assert torch.equal(result, twin(twin.count)[0])


def test_an_output_that_is_a_buffer_the_model_wrote() -> None:
    model, twin = Counts(), Counts()
    fast = optimized(model, X)
    for _ in range(2):
        ours, eager = fast(X), twin(X)
        assert torch.equal(ours[0], eager[0])
        assert torch.equal(ours[1], eager[1])
