"""What decides the sizes of the rest runs before it: Inductor then compiles for sizes that its inputs have.

A size that appears in the middle of a graph (``N`` tokens of a padded batch) would be unknown to the compiler, which
then cannot tell sizes apart, nor tune for them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.fx import Node

from txgraph.backends.calls.eager import Eager
from txgraph.ir import Graph, extract

_DECIDES_SIZES = frozenset((torch.ops.txgraph.token_index.default,))


def cut_head(graph: Graph) -> Eager | None:
    """Make the values that decide sizes inputs of ``graph``, after its own; gives what computes them of the others."""
    deciding = [node for node in graph.calls() if node.target in _DECIDES_SIZES]
    if not deciding:
        return None
    results = [piece for node in deciding for piece in node.users]
    names = {node.name for node in (*results, *_ancestors(deciding))}
    head = extract(graph, names, [n.name for n in graph.inputs], [n.name for n in results])
    after = graph.inputs[-1].next
    for piece in results:
        with graph.fx.inserting_before(after):
            placeholder = graph.fx.placeholder(f"head_{piece.name}")
        placeholder.meta = {"val": piece.meta["val"]}
        piece.replace_all_uses_with(placeholder)
    graph.eliminate_dead_code()
    return Eager(head)


def _ancestors(nodes: Sequence[Node]) -> list[Node]:
    """The nodes and the operators that they depend on."""
    found: dict[Node, None] = {}
    pending = list(nodes)
    while pending:
        node = pending.pop()
        if node not in found and node.op == "call_function":
            found[node] = None
            pending += node.all_input_nodes
    return list(found)
