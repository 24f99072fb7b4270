"""Which operators become one kernel: connected ones that are generated, with nothing between them that is not."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import networkx as nx
import torch
from torch.fx import Node

from txgraph.backends.tvm.sizes import is_computable, symbols_of
from txgraph.ir import Graph, type_of
from txgraph.ir.aliasing import is_view, reaches_output
from txgraph.ir.node import same_size

_aten = torch.ops.aten
MOVES = frozenset(
    (
        *(_aten.clone.default, _aten._to_copy.default, _aten.cat.default, _aten.arange.default, _aten.full.default),
        *(_aten.new_ones.default, _aten.new_zeros.default, _aten.ones.default, _aten.zeros.default),
        _aten.scalar_tensor.default,
    )
)
"""Of such alone no kernel is made: torch's own is as good."""


@dataclass(frozen=True)
class Region:
    """What a kernel takes and gives.

    Attributes:
        nodes: the operators. inputs, outputs: its tensors. symbols: of all sizes in it.
    """

    nodes: tuple[Node, ...]
    inputs: tuple[Node, ...]
    outputs: tuple[Node, ...]
    symbols: tuple[str, ...]

    @classmethod
    def of(cls, nodes: Sequence[Node]) -> Region:
        """The region of these operators."""
        inside = set(nodes)
        taken = [source for node in nodes for source in node.all_input_nodes if source not in inside]
        inputs = tuple(dict.fromkeys(source for source in taken if type_of(source) is not None))
        outputs = tuple(node for node in nodes if not node.users or any(user not in inside for user in node.users))
        sizes = [size for node in (*nodes, *inputs) for size in node.meta["val"].shape]
        sizes += [source.meta["val"] for source in taken if type_of(source) is None]
        return cls(tuple(nodes), inputs, outputs, tuple(symbols_of(sizes)))


def find_regions(graph: Graph, converts: Callable[[Node], bool]) -> list[Region]:
    """The regions of a graph, each in the graph's order; contracting all of them leaves it without cycles.

    Each path from an operator to another counts how often it passes from generated ones to others and back: those that
    are reached after equally many changes, at most, have nothing else between them.

    Args:
        converts: whether an operator can be generated.
    """
    inside = {node for node in graph.calls() if converts(node) and _has_plain_layout(node)}
    _keep_inner_views(inside)
    changes: dict[Node, int] = {}
    connected = nx.Graph()
    for node in graph.calls():
        sources = [source for source in node.all_input_nodes if source.op == "call_function"]
        changes[node] = max((changes[s] + ((s in inside) != (node in inside)) for s in sources), default=0)
        if node in inside:
            connected.add_node(node)
            connected.add_edges_from((s, node) for s in sources if s in inside and changes[s] == changes[node])
    order = {node: at for at, node in enumerate(graph.calls())}
    found = [sorted(part, key=order.__getitem__) for part in nx.connected_components(connected)]
    found = [part for part in found if any(node.target not in MOVES for node in part)]
    return [Region.of(part) for part in sorted(found, key=lambda part: order[part[0]])]


def _keep_inner_views(inside: set[Node]) -> None:
    """Leave only views that stand between generated operators: others cost next to nothing where they are."""
    while outer := {
        node
        for node in inside
        if is_view(node) and not (node.all_input_nodes[0] in inside and all(user in inside for user in node.users))
    }:
        inside -= outer


def _has_plain_layout(node: Node) -> bool:
    """Whether the result can lie as it does in eager, or nobody sees how it lies."""
    return not reaches_output(node) or _is_packed(node, order_of(node))


def order_of(node: Node) -> tuple[int, ...]:
    """The axes of a result in the order in which they lie in memory, the longest steps first."""
    axes = tuple(range(node.meta["val"].ndim))
    if not reaches_output(node) or _is_packed(node, axes):
        return axes
    steps = [step if isinstance(step, int) else int(step.node.hint) for step in node.meta["val"].stride()]
    return tuple(sorted(axes, key=lambda axis: -steps[axis]))


def is_contiguous(node: Node) -> bool:
    """Whether a tensor lies in the order of its axes, in one piece."""
    return _is_packed(node, tuple(range(node.meta["val"].ndim)))


def _is_packed(node: Node, order: tuple[int, ...]) -> bool:
    """Whether a tensor lies in that order of its axes, in one piece; no guards are added."""
    value = node.meta["val"]
    expected: int | torch.SymInt = 1
    for axis in reversed(order):
        size, stride = value.shape[axis], value.stride()[axis]
        if not same_size(size, 1):
            if not same_size(stride, expected):
                return False
            expected = size * expected
    return True


def has_plain_rows(node: Node) -> bool:
    """Whether numbers of the last axis lie side by side."""
    strides = node.meta["val"].stride()
    return bool(strides) and isinstance(strides[-1], int) and strides[-1] == 1


def can_be_read(node: Node, dtypes: Collection[torch.dtype]) -> bool:
    """Whether a value is a tensor of such a dtype, or a size, and its sizes can be computed."""
    tensor_type = type_of(node)
    if tensor_type is None:
        value = node.meta.get("val")
        return isinstance(value, int | torch.SymInt) and is_computable(value)
    if tensor_type.dtype not in dtypes:
        return False
    return all(is_computable(size) and not same_size(size, 0) for size in tensor_type.shape)
