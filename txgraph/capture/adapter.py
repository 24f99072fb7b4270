"""Private names of torch, all in this file: what tracing assumed of sizes, comparisons in C, kinds of operators."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import sympy
import torch
from torch._C import DispatchKey
from torch._C._dynamo.guards import TensorGuards
from torch._ops import OpOverload

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


def may_be_others(operator: OpOverload) -> bool:
    """Whether an operator is made of others, and shares memory with its input in some calls only, or is a view."""
    return is_composite(operator) and any(argument.alias_info is not None for argument in operator._schema.arguments)


def is_composite(operator: OpOverload) -> bool:
    """Whether an operator is made of others: its ``decompose`` calls these."""
    return operator.has_kernel_for_dispatch_key(DispatchKey.CompositeImplicitAutograd)


def without_writing(operator: OpOverload) -> OpOverload | None:
    """Of an operator that writes to its first argument, as ``add_``, the one that gives the result, as ``add``."""
    writes = [a.alias_info is not None and a.alias_info.is_write for a in operator._schema.arguments]
    packet = getattr(torch.ops.aten, operator.overloadpacket.__name__.removesuffix("_"), None)
    found = getattr(packet, operator._overloadname, None)
    if operator.namespace != "aten" or writes != [True, *(False for _ in writes[1:])] or found is None:
        return None
    same = [_argument(a) for a in found._schema.arguments] == [_argument(a) for a in operator._schema.arguments]
    return found if same and not found._schema.is_mutable else None


def _argument(argument: Any) -> tuple[str, str]:
    return argument.name, str(argument.type)
