"""What looks like attention to torch's compiler, and is another function, is compiled as what it is.

Torch 2.13 matches its patterns of attention without their axes: a softmax over any axis, and a key with any order of
axes. When `test_torch_still_takes_it_for_attention` fails, torch is repaired: see `only_own_patterns`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
from torch import nn

import txgraph
from txgraph.backends.inductor import adapter

_Function = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


class Model(nn.Module):
    def __init__(self, function: _Function) -> None:
        super().__init__()
        self.function = function

    def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return self.function(q, k, v)


# The function, and the shapes of query, key and value.
LIKE_ATTENTION: dict[str, tuple[_Function, list[tuple[int, ...]]]] = {
    "softmax over the heads": (
        lambda q, k, v: (q @ k.transpose(-1, -2) * 0.25).softmax(1) @ v,
        [(2, 4, 8, 16)] * 3,
    ),
    "softmax over the queries": (
        lambda q, k, v: (q @ k.transpose(-1, -2) * 0.25).softmax(-2) @ v,
        [(2, 4, 8, 16)] * 3,
    ),
    "softmax over the queries of products by bmm": (
        lambda q, k, v: torch.bmm(torch.bmm(q, k.transpose(-1, -2)).softmax(1), v),
        [(4, 8, 16)] * 3,
    ),
    "a key with another order of axes": (
        lambda q, k, v: (q @ k.permute(0, 2, 3, 1) * 0.25).softmax(-1) @ v,
        [(1, 4, 4, 16)] * 3,
    ),
    "a key with another order of axes, one head": (
        lambda q, k, v: (q @ k.permute(0, 2, 3, 1) * 0.25).softmax(-1) @ v,
        [(2, 1, 3, 8), (2, 3, 1, 8), (2, 1, 3, 8)],
    ),
}
ALL = pytest.mark.parametrize(("function", "shapes"), LIKE_ATTENTION.values(), ids=LIKE_ATTENTION)


def difference(function: _Function, shapes: list[tuple[int, ...]]) -> float:
    """From eager, where nothing is checked and no pass of ours has changed the graph."""
    torch.manual_seed(0)
    args = tuple(torch.randn(shape) for shape in shapes)
    fast = txgraph.optimize(Model(function), args, backend="inductor", passes=txgraph.Pipeline(()), verify="off")
    return float((fast(*args) - function(*args)).abs().max())


@ALL
def test_it_is_compiled_as_what_it_is(function: _Function, shapes: list[tuple[int, ...]]) -> None:
    assert difference(function, shapes) < 1e-5


@ALL
def test_torch_still_takes_it_for_attention(
    function: _Function, shapes: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter, "only_own_patterns", nullcontext)
    fails = len(set(shapes)) > 1  # torch's attention takes other sizes
    with pytest.raises(txgraph.BackendFailed, match="batch2 tensor") if fails else nullcontext():
        assert difference(function, shapes) > 0.1


def test_the_patterns_come_back() -> None:
    from torch._inductor.fx_passes import joint_graph

    def found() -> int:
        return sum(map(len, joint_graph.patterns.patterns.values()))

    difference(*LIKE_ATTENTION["softmax over the heads"])  # torch has registered its patterns
    before = found(), joint_graph.patterns.apply, torch.compiler.config.cache_key_tag
    with adapter.only_own_patterns():
        assert joint_graph.patterns.apply != before[1]
    assert (found(), joint_graph.patterns.apply, torch.compiler.config.cache_key_tag) == before
