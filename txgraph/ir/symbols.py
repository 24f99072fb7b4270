"""A size that only a call's values decide, as a symbol. Private names of torch, all in this file."""

from __future__ import annotations

import torch
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv

from txgraph.ir.builder import fake_mode_of
from txgraph.ir.graph import Graph


def new_size(graph: Graph, name: str, origin: str, hint: int) -> torch.SymInt:
    """A symbolic size of at least 2.

    Args:
        name: how it is printed. origin: of what it is the size; a graph has one of each.
        hint: what it is taken to be where code is tuned.
    """
    from torch._dynamo.source import ConstantSource  # with all of Dynamo: not where it is not needed

    mode = fake_mode_of(graph)
    if mode.shape_env is None:  # a graph that was made by hand
        mode.shape_env, mode.static_shapes = ShapeEnv(), False
    environment = mode.shape_env
    source = ConstantSource(origin)
    symbol = environment.create_symbol(hint, source, dynamic_dim=DimDynamic.DYNAMIC)
    size = environment.create_symintnode(symbol, hint=hint, source=source)
    assert isinstance(size, torch.SymInt), "a dynamic size is no number"
    graph.symbols = {**graph.symbols, str(size): name}
    graph.ranges = {**graph.ranges, str(size): (2, None)}
    return size
