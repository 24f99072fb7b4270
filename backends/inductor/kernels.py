"""Which operators of the graph that was lowered each launch of its pieces computes.

Lowering replaces operators, and Inductor fuses them. Each node keeps the names of those in whose place it is
(``COMPUTES`` in its notes); :class:`txgraph.ir.GraphBuilder` hands them on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from txgraph.backends.calls.eager import Eager
from txgraph.backends.inductor.generated import Generated
from txgraph.backends.pieces import Piece
from txgraph.ir import Graph, Kernel
from txgraph.ir.kernel import KernelKind, kind_of_call, operator_path
from txgraph.ir.node import COMPUTES


def kernels_of(
    graph: Graph, lowered: Graph, pieces: Sequence[Piece], codes: Mapping[int, Generated | Eager], head: Eager | None
) -> tuple[Kernel, ...]:
    """What one call launches, in that order.

    Args:
        graph: the one that was given. lowered: what was made of it, and cut into pieces.
        codes: by the numbers of the pieces that they were made for; their nodes are in the place of the pieces' nodes.
    """
    kernels = [] if head is None else _launched(head)
    computes = {node.name: node.meta.get(COMPUTES, ()) for node in lowered.nodes}
    for piece in pieces:
        pairs = zip(pieces[piece.like].names, piece.names, strict=True)  # corresponding nodes of two copies
        of_copy = {first: computes[name] for first, name in pairs}
        for kernel in _launched(codes[piece.like]):
            names = {name for node in kernel.nodes for name in of_copy.get(node, ())}
            kernels.append(replace(kernel, nodes=tuple(names)))
    order = {node.name: at for at, node in enumerate(graph.calls())}
    return tuple(replace(k, nodes=tuple(sorted(k.nodes, key=order.__getitem__))) for k in kernels)


def _launched(code: Generated | Eager) -> list[Kernel]:
    if isinstance(code, Eager):
        named = [(operator_path(node), node.meta.get(COMPUTES, ())) for node in code.graph.calls()]
        return [Kernel(name, nodes, kind_of_call(name, "interpreted")) for name, nodes in named]
    kinds: list[KernelKind] = [
        kind_of_call(each.name, "generated" if each.code else "library") for each in code.launches
    ]
    return [
        Kernel(each.name, each.nodes, kind, each.code, each.ptx, each.cubin)
        for each, kind in zip(code.launches, kinds, strict=True)
    ]
