"""A graph that is run as it is can be kept, and is not acted on from outside."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from tests.helpers import normal
from tests.small import traced
from txgraph.backends.calls.eager import Eager
from txgraph.cache.adapter import dumps, loads


def test_it_can_be_kept() -> None:
    graph = traced(lambda x, w: F.linear(x, w).tanh(), normal(2, 8), w=normal(4, 8))
    weight = graph.constants["w"]
    function = Eager(graph)
    (before,) = function(normal(2, 8))
    assert function.source
    again = loads(dumps(function, lambda tensor: "w"), lambda place: weight)
    assert isinstance(again, Eager)
    assert torch.equal(again(normal(2, 8))[0], before)


def test_autocast_does_not_act_on_it() -> None:
    function = Eager(traced(lambda x, w: F.linear(x, w), normal(2, 8), w=normal(4, 8)))
    with torch.autocast("cpu", torch.bfloat16):
        assert function(normal(2, 8))[0].dtype is torch.float32
