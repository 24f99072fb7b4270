"""Which operators run as one kernel."""

from __future__ import annotations

from collections.abc import Iterable

import networkx as nx
import torch
from torch._ops import OpOverload
from torch.fx import Node

from txgraph.cost.adapter import tensors_of
from txgraph.cost.counts import is_free, memory_of
from txgraph.ir import packet_of

_aten = torch.ops.aten
_REDUCTIONS = {_aten.sum, _aten.mean, _aten.prod, _aten.amax, _aten.amin, _aten.max, _aten.min, _aten.any, _aten.all}
_REDUCTIONS |= {_aten.var, _aten.std, _aten.var_mean, _aten.argmax, _aten.argmin, _aten.logsumexp}
_REDUCTIONS |= {_aten.linalg_vector_norm, _aten.norm}
_NORMS = {_aten.softmax, _aten._softmax, _aten.log_softmax, _aten._log_softmax, _aten.layer_norm, _aten.rms_norm}
_NORMS |= {_aten.native_layer_norm, _aten.group_norm, _aten.batch_norm}
_COPIES = {_aten.clone, _aten._to_copy, _aten.to, _aten.contiguous, _aten.reshape, _aten.flatten, _aten.repeat}
_COPIES |= {_aten.embedding, _aten.index, _aten.index_select, _aten.gather, _aten.dropout, _aten.triu, _aten.tril}
_COPIES |= {_aten.zeros, _aten.ones, _aten.full, _aten.arange, _aten.scalar_tensor}
_COPIES |= {_aten.zeros_like, _aten.ones_like, _aten.full_like, _aten.new_zeros, _aten.new_ones, _aten.new_full}
_FUSES = _REDUCTIONS | _NORMS | _COPIES


def fuses(node: Node) -> bool:
    """Whether a compiler puts the operator into a loop with its neighbours: elementwise, reduction, norm or copy."""
    return isinstance(node.target, OpOverload) and (
        torch.Tag.pointwise in node.target.tags or packet_of(node) in _FUSES
    )


def separate_kernels(nodes: Iterable[Node]) -> list[list[Node]]:
    """Each operator by itself; nodes that cost nothing are left out."""
    return [[node] for node in dict.fromkeys(nodes) if not is_free(node)]


def fused_kernels(nodes: Iterable[Node]) -> list[list[Node]]:
    """Connected operators that fuse as one kernel, all others by themselves.

    No kernel waits for itself: where two operators are also connected through one that does not fuse (a residual
    around a linear), they are in different kernels. Order is that of ``nodes``.
    """
    calls = [node for (node,) in separate_kernels(nodes)]
    flow = nx.DiGraph()
    flow.add_nodes_from(calls)
    for node in calls:
        sources = {memory_of(source) for source in node.all_input_nodes if tensors_of(source)}
        flow.add_edges_from((source, node) for source in sources if source in flow)
    stage: dict[Node, int] = {}  # operators that do not fuse, on the longest way to a node
    for node in nx.topological_sort(flow):
        stage[node] = max((stage[source] + (not fuses(source)) for source in flow.predecessors(node)), default=0)
    joined = nx.Graph()
    joined.add_nodes_from(calls)
    joined.add_edges_from((a, b) for a, b in flow.edges if fuses(a) and fuses(b) and stage[a] == stage[b])
    position = {node: at for at, node in enumerate(calls)}
    parts = [sorted(part, key=position.__getitem__) for part in nx.connected_components(joined)]
    return sorted(parts, key=lambda part: position[part[0]])
