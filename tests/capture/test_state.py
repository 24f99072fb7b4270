"""Runs of a model leave nothing behind on it: neither tracing nor checking."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import txgraph
from tests.small import assert_as_eager
from txgraph import VerificationFailed
from txgraph.capture.state import attributes_kept
from txgraph.verify import reference

X = torch.linspace(-1, 1, 8).reshape(2, 4)


class Remembering(nn.Module):
    """Assigns a cache, counts its calls, and notes them in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.calls, self.log = 0, [0]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        self.log.append(self.calls)
        self.cache = x.shape[0] * torch.ones(4)
        return x + self.cache


class Moving(nn.Module):
    """A plain tensor that moves on with each call."""

    def __init__(self) -> None:
        super().__init__()
        self.total = torch.zeros(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.total = self.total + x.sum(0)
        return x * 2


def test_attributes_are_kept() -> None:
    model = Remembering()
    model(X)
    with attributes_kept(model):
        model(X)
        model.register_forward_hook(lambda *_: None)
        model.register_buffer("late", X)
    assert (model.calls, model.log) == (1, [0, 1])
    assert (dict(model.named_buffers()), len(model._forward_hooks)) == ({}, 0)


@pytest.mark.parametrize("level", ["passes", "off"])
def test_a_model_is_left_as_it_was(level: str) -> None:
    model = Remembering()
    fast = txgraph.optimize(model, (X,), backend="reference", verify=level)
    assert (model.calls, model.log, hasattr(model, "cache")) == (0, [0], False)
    assert_as_eager(fast(X), model, X)


def test_a_tensor_that_moves_on_is_refused() -> None:
    model = Moving()
    message = r"Moving assigns total in its forward\(\), and each call changes it: make it a buffer"
    with pytest.raises(VerificationFailed, match=message):
        txgraph.optimize(model, (X,), backend="reference")
    assert model.total.dtype is torch.float32
    assert model.total.count_nonzero() == 0


def test_writes_that_are_not_in_the_graph() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("count", torch.zeros(1))
            self.weight = nn.Parameter(torch.zeros(4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if x.shape[0] == 2:
                self.count.add_(1)
            else:
                self.weight.data.add_(1) if x.shape[0] == 3 else x.add_(1)
            return x * 2

    model = Counting()
    assert reference(model, (X,), {}, [model.count]).eager[0] == 1
    assert model.count == 0
    with pytest.raises(VerificationFailed, match="Counting writes to count, and its captured graph does not"):
        reference(model, (X,), {})
    assert model.count == 0
    with pytest.raises(VerificationFailed, match="Counting writes to input 0, and its captured graph does not"):
        reference(model, (X[:1],), {})


def test_buffers_that_no_run_writes_to_keep_their_version() -> None:
    model = nn.BatchNorm1d(4).eval()
    version = model.running_mean._version
    reference(model, (X,), {})
    assert model.running_mean._version == version
    fast = txgraph.optimize(model, backend="reference")
    for size in (2, 3, 4, 2, 3):
        fast(torch.ones(size, 4))
    assert fast.report.notes == []
    assert len(fast.report.graphs) == 2
