"""Private names of torch, all in this file: what tracing assumed of sizes, and comparisons of tensors in C."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import sympy
import torch
from torch._C._dynamo.guards import TensorGuards

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


def forms_check(tensors: Sequence[torch.Tensor]) -> Callable[[], bool]:
    """A check, in C, that tensors have the dtypes, devices, sizes and strides that they have now.

    It also fails in another mode of torch (autocast, inference mode), where each of these may be as it was.
    """
    if not tensors:
        return lambda: True
    sizes: list[Any] = [list(tensor.shape) for tensor in tensors]  # its stub knows only those of one tensor
    strides: list[Any] = [list(tensor.stride()) for tensor in tensors]
    guards = TensorGuards(*tensors, dynamic_dims_sizes=sizes, dynamic_dims_strides=strides)
    return lambda: guards.check(*tensors)
