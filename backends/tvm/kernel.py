"""A region of a graph as one function of TVM."""

from __future__ import annotations

from typing import Any

from torch.fx import Node
from tvm import te, tirx

from txgraph.backends.tvm import converters, reductions
from txgraph.backends.tvm.numerics import DTYPES, for_gpu
from txgraph.backends.tvm.operands import CONVERTERS, Operands
from txgraph.backends.tvm.regions import Region, can_be_read, has_plain_rows, is_contiguous, order_of
from txgraph.backends.tvm.sizes import compute
from txgraph.backends.tvm.values import Value, as_int, of_tensor
from txgraph.ir import arguments, type_of

FILLED_BY = (converters, reductions)  # the table
CHEAP = 6  # instructions that are rather run twice than their result read from memory
LARGEST = 200  # instructions that are read as one expression


def converts(node: Node) -> bool:
    """Whether an operator can be generated."""
    if node.target not in CONVERTERS or type_of(node) is None:
        return False
    return all(can_be_read(each, DTYPES) for each in (node, *node.all_input_nodes)) and _is_common(node)


def _is_common(node: Node) -> bool:
    """Whether it is a case of its operator that the table knows."""
    named, name = arguments(node), str(node.target)
    if "layer_norm" in name or "rms_norm" in name:
        return len(named["normalized_shape"]) == 1 and isinstance(named["normalized_shape"][0], int)
    if "pow" in name:
        return isinstance(named["exponent"], int | float)
    return "arange" not in name or not node.meta["val"].dtype.is_floating_point


def function_of(region: Region) -> tirx.PrimFunc:
    """The function: symbols, then strides of inputs that are not contiguous, then inputs, then outputs."""
    symbols = {name: tirx.Var(name, "int64") for name in region.symbols}
    strides: list[Any] = []
    tensors: list[te.Tensor] = []
    values: dict[Node, Value] = {}
    for node in region.inputs:
        values[node] = _input(node, symbols, strides, tensors)
    outputs: dict[Node, te.Tensor] = {}
    inside = set(region.nodes)

    def keep(value: Value) -> Value:
        is_kept = value.cost > CHEAP and not (for_gpu() and _is_open(value))
        return value.stored("kept")[0] if is_kept else value

    for node in region.nodes:
        value = CONVERTERS[node.target](Operands(node, values, symbols, keep))  # type: ignore[index]  # see converts
        value = value.cast(DTYPES[node.meta["val"].dtype])
        if node in region.outputs:
            order = order_of(node)
            if for_gpu() and any(user in inside for user in node.users):  # no thread reads what another has written
                value = keep(value)
            turned, outputs[node] = value.permuted(order).stored(node.name)
            if not for_gpu():
                value = turned.permuted([order.index(axis) for axis in range(len(order))])
        elif value.cost > LARGEST or (value.cost > CHEAP and sum(user in inside for user in node.users) > 1):
            value = value.stored(node.name)[0]
        values[node] = value
    taken = [*symbols.values(), *strides, *tensors, *(outputs[node] for node in region.outputs)]
    return te.create_prim_func(taken, index_dtype_override="int64")  # as symbols are


def _is_open(value: Value) -> bool:
    """Whether nobody knows how much memory a row takes: a GPU computes it twice instead."""
    return bool(value.shape) and as_int(value.shape[-1]) is None


def _input(node: Node, symbols: dict[str, Any], strides: list[Any], tensors: list[te.Tensor]) -> Value:
    """What an input holds; of one that is not contiguous all memory is taken, and indices are counted."""
    given = node.meta["val"]
    shape, dtype = tuple(compute(size, symbols) for size in given.shape), DTYPES[given.dtype]
    if is_contiguous(node):
        tensors.append(te.placeholder(shape, dtype, name=node.name))
        return of_tensor(tensors[-1])
    memory = te.placeholder((tirx.Var(f"{node.name}_length", "int64"),), dtype, name=node.name)
    steps = [tirx.Var(f"{node.name}_stride_{axis}", "int64") for axis in range(len(shape) - 1)]
    last: Any = 1
    if not has_plain_rows(node):
        last = tirx.Var(f"{node.name}_stride_{len(shape) - 1}", "int64")
        steps.append(last)
    strides += steps
    tensors.append(memory)
    places = [*steps, last][: len(shape)]
    return Value(shape, dtype, lambda index: memory(sum(i * step for i, step in zip(index, places, strict=True))))
