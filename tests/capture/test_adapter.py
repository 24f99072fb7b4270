"""Tells when the private names of torch that tell of sizes move."""

from __future__ import annotations

import torch
from torch.export import Dim

from tests.small import graph_of, module
from txgraph.capture.adapter import conditions_on_sizes

X = torch.ones(5, 3)


def test_what_the_code_asked_of_sizes() -> None:
    model = module(lambda x: x + 1 if x.shape[0] % 2 else x - 1)
    graph = graph_of(model, X, dynamic_shapes=({0: Dim.AUTO},))
    (condition,) = (c for c in conditions_on_sizes(graph) if "Mod" in str(c))
    (symbol,) = condition.free_symbols
    assert [bool(condition.subs(symbol, size)) for size in (4, 5, 6, 7)] == [False, True, False, True]


def test_static_sizes_have_no_conditions() -> None:
    assert list(conditions_on_sizes(graph_of(module(lambda x: x + 1), X))) == []
