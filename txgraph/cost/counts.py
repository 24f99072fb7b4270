"""What one operator costs, counted from types alone: floating-point operations, and bytes of memory.

Symbolic sizes count as the sizes they had at capture; no guard is added.
"""

from __future__ import annotations

import operator
from collections.abc import Collection, Sequence
from math import prod
from typing import Any

import torch
from torch._ops import OpOverload
from torch.fx import Node
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from txgraph.cost.adapter import is_composite, run_on_meta, size_hint, tensors_of
from txgraph.ir import arguments, packet_of
from txgraph.ir.aliasing import is_view
from txgraph.ir.known_values import value_inputs

_aten = torch.ops.aten
_mm_flops = flop_registry[_aten.mm]


def _linear_activation_flops(
    input_shape: torch.Size, weight_shape: torch.Size, *args: Any, out_shape: torch.Size, **kwargs: Any
) -> int:
    rows = (prod(input_shape[:-1]), input_shape[-1])
    return int(_mm_flops(rows, (weight_shape[1], weight_shape[0]))) + prod(out_shape)


def _linears_flops(input_shape: torch.Size, weight_shapes: Sequence[torch.Size], *args: Any, **kwargs: Any) -> int:
    rows = (prod(input_shape[:-1]), input_shape[-1])
    return sum(int(_mm_flops(rows, (shape[1], shape[0]))) for shape in weight_shapes)


def _int8_linears_flops(
    input_shape: torch.Size, scales_shape: torch.Size, weight_shapes: Sequence[torch.Size], *args: Any, **kwargs: Any
) -> int:
    return _linears_flops(input_shape, weight_shapes)


def _weight_only_linears_flops(
    input_shape: torch.Size, weight_shapes: Sequence[torch.Size], *args: Any, **kwargs: Any
) -> int:
    return 2 * prod(input_shape) * sum(shape[0] for shape in weight_shapes)  # 4-bit weights have half the width


def _attention_flops(query: torch.Size, key: torch.Size, value: torch.Size, *args: Any, **kwargs: Any) -> int:
    return 2 * prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


# Formulas that torch's registry lacks, in its form: of the arguments' shapes.
_FORMULAS: dict[Any, Any] = {
    torch.ops.txgraph.linear_activation: _linear_activation_flops,
    torch.ops.txgraph.linears: _linears_flops,
    torch.ops.txgraph.int8_linears: _int8_linears_flops,
    torch.ops.txgraph.weight_only_linears: _weight_only_linears_flops,
    torch.ops.txgraph.softcap_attention: _attention_flops,
    torch.ops.txgraph.window_attention: _attention_flops,  # as if all keys were seen: types do not say more
    torch.ops.txgraph.threshold_attention: _attention_flops,
    torch.ops.txgraph.expert_linear: lambda x, w, expert, **kwargs: 2 * prod(x) * w[1],
    _aten.mv: lambda a, b, out_shape: _mm_flops(a, (*b, 1)),
    _aten.dot: lambda a, b, out_shape: _mm_flops((1, *a), (*b, 1)),
    _aten.addmv: lambda bias, a, b, out_shape, **kwargs: _mm_flops(a, (*b, 1)),
    _aten._int_mm: lambda a, b, out_shape: _mm_flops(a, b),
}
_LOOKUPS = {_aten.embedding, _aten.index, _aten.index_select, _aten.gather, _aten.take, _aten.take_along_dim}
_UNTRACEABLE = {torch.Tag.dynamic_output_shape, torch.Tag.data_dependent_output}  # cannot run without data


def flops(node: Node) -> int:
    """Floating-point operations of an operator.

    Matrix products and convolutions count 2 for each multiplication and addition (torch's flop registry), and
    attention counts its two products. All others count one for each element of the largest tensor that they
    read or write. Views, inputs and constants count nothing.
    """
    if is_free(node):
        return 0
    return _product_flops(node) or max([*_read_elements(node).values(), *map(_elements, tensors_of(node))])


def bytes_moved(node: Node) -> int:
    """Bytes that an operator reads from and writes to memory, if it runs as a kernel of its own.

    A lookup (``embedding``, ``gather``) reads no more of its table than it gives back; an expanded axis is read once.
    Views count nothing; a ``reshape`` that must copy is no view.
    """
    return 0 if is_free(node) else traffic([node])


def is_free(node: Node) -> bool:
    """Whether a node moves and computes nothing: inputs, constants, views, arithmetic on sizes, assertions."""
    if node.op != "call_function" or node.target is operator.getitem or not tensors_of(node):
        return True
    if not isinstance(node.target, OpOverload) or not is_view(node):
        return False
    if not is_composite(node.target):
        return True
    read, made = run_on_meta(node)  # reshape, contiguous, to: a view where possible, else a copy
    return all(any(each.untyped_storage() is source.untyped_storage() for source in read) for each in made)


def memory_of(value: Node) -> Node:
    """The node whose memory a value is: the value itself, or what it is a view of."""
    while value.op == "call_function" and is_free(value) and value.args and isinstance(value.args[0], Node):
        value = value.args[0]
    return value


def traffic(kernel: Collection[Node]) -> int:
    """Bytes that operators read and write if they run as one kernel: those of values that cross its border."""
    inside = set(kernel)
    read: dict[Node, dict[Node, int]] = {}
    for node in kernel:
        for source, elements in _read_elements(node).items():
            base = memory_of(source)
            if base not in inside:
                views = read.setdefault(base, {})
                views[source] = max(views.get(source, 0), elements * tensors_of(source)[0].dtype.itemsize)
    written = sum(_bytes(node) for node in kernel if _is_seen_outside(node, inside))
    return written + sum(min(_bytes(base), sum(views.values())) for base, views in read.items())


def _product_flops(node: Node) -> int:
    """FLOPs of the matrix products that an operator is made of; 0 if there are none."""
    packet, target = packet_of(node), node.target
    if not isinstance(target, OpOverload) or _UNTRACEABLE & set(target.tags):
        return 0
    if packet not in _FORMULAS and packet not in flop_registry and not is_composite(target):
        return 0
    with FlopCounterMode(display=False, custom_mapping=_FORMULAS) as counter:
        run_on_meta(node)
    return int(counter.get_total_flops())


def _read_elements(node: Node) -> dict[Node, int]:
    """How many elements an operator reads of each value."""
    read = {source: sum(map(_elements, tensors_of(source))) for source in value_inputs(node) if tensors_of(source)}
    if packet_of(node) is torch.ops.txgraph.expert_linear:  # no more experts than there are rows
        named = arguments(node)
        rows, experts = (size_hint(named[name].meta["val"].shape[0]) for name in ("input", "weight"))
        read[named["weight"]] = read[named["weight"]] * min(rows, experts) // max(experts, 1)
    if packet_of(node) in _LOOKUPS:
        table = next(iter(arguments(node).values()))
        read[table] = min(read[table], sum(map(_elements, tensors_of(node))))
    return read


def _elements(tensor: torch.Tensor) -> int:
    """Elements that a tensor holds in memory: an expanded axis holds one."""
    axes = zip(tensor.shape, tensor.stride(), strict=True)
    return prod(size_hint(size) for size, stride in axes if size_hint(stride) != 0 or size_hint(size) == 0)


def _bytes(node: Node) -> int:
    return sum(_elements(tensor) * tensor.dtype.itemsize for tensor in tensors_of(node))


def _is_seen_outside(node: Node, inside: Collection[Node]) -> bool:
    """Whether a value must be written: an operator outside reads it, it is an output, or nothing uses it yet."""
    readers = [user for user in node.users if user.op == "output" or tensors_of(user)]
    for user in readers:
        if user not in inside and (user.op == "output" or not is_free(user) or _is_seen_outside(user, inside)):
            return True
    return not readers
