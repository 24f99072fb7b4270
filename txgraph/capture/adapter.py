"""Private names of torch, all in this file: what tracing assumed, comparisons in C, kinds of operators."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
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


@dataclass(frozen=True)
class TensorReads:
    """How C reads tensors.

    Attributes:
        functions: of torch's C interface, which take a pointer to a tensor and where a property is written to: address,
            dtype, number of axes, sizes, strides. offset: of the pointer to the tensor in its Python object, in bytes.
    """

    functions: ctypes.Array[ctypes.c_void_p]
    offset: int


def tensor_reads(tensors: Sequence[torch.Tensor]) -> TensorReads | None:
    """How C reads these tensors; ``None`` if this torch, or one of them, is not made as is known here."""
    functions = _shim()
    offset, *others = {_offset(tensor) for tensor in tensors or (torch.empty(0),)}
    return None if functions is None or offset is None or others else TensorReads(functions, offset)


@functools.cache
def _shim() -> ctypes.Array[ctypes.c_void_p] | None:
    path = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    names = ("data_ptr", "dtype", "dim", "sizes", "strides")
    try:
        library = ctypes.CDLL(str(path))  # which is loaded
        functions = [ctypes.cast(getattr(library, f"aoti_torch_get_{name}"), ctypes.c_void_p) for name in names]
    except (OSError, AttributeError):
        return None
    return (ctypes.c_void_p * len(names))(*(function.value for function in functions))


def _offset(tensor: torch.Tensor) -> int | None:
    """Where the object of a tensor has the pointer to what C++ knows as the tensor."""
    words = range(object.__basicsize__, torch.Tensor.__basicsize__, ctypes.sizeof(ctypes.c_void_p))
    return next((at for at in words if ctypes.c_void_p.from_address(id(tensor) + at).value == tensor._cdata), None)
