"""Private names of torch, all in this file: what tracing assumed of sizes."""

from __future__ import annotations

from collections.abc import Iterator

import sympy
import torch

from txgraph.ir import Graph


def conditions_on_sizes(graph: Graph) -> Iterator[sympy.Basic]:
    """What the user's code asked of symbolic sizes while it was traced, as it was answered then.

    A branch such as ``if x.shape[0] % 2`` is taken once; the graph holds for sizes that take it again.
    """
    sizes = (size for node in graph.inputs for size in node.meta["val"].shape)
    environment = next((size.node.shape_env for size in sizes if isinstance(size, torch.SymInt)), None)
    if environment is None:
        return
    for guard in environment.guards:
        condition = environment.simplify(guard.expr)
        if condition is not sympy.true:
            yield condition
