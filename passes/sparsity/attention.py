"""Lossy passes of attention: where they rewrite, which is all they have in common."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch.fx import Node

from txgraph.ir import Graph, GraphBuilder, arguments, provenance_of
from txgraph.rewrite import LossyContext, LossyPass, PassContext, Place, Rewrite, replace

DENSE = torch.ops.aten.scaled_dot_product_attention.default
WINDOWS = torch.ops.txgraph.window_attention.default


@dataclass(frozen=True, kw_only=True)
class AttentionPass(LossyPass):
    """A lossy pass that puts another attention in the place of one, in float32 on CPUs.

    Attributes:
        modules: only attention in modules whose names are like this, as in ``"*.layers.3.*"``.
    """

    modules: str = "*"

    @abstractmethod
    def fits(self, node: Node) -> bool:
        """Whether it can rewrite this attention, which is one of four axes, and may save time."""

    @abstractmethod
    def put(self, node: Node, g: GraphBuilder) -> Node:
        """The attention that takes its place."""

    def places(self, graph: Graph, lossy: LossyContext) -> Mapping[str, Place]:
        """Attentions, by their modules: they have no weights of their own."""
        return {node.name: place for node, place in self._found(graph)}

    def run(self, graph: Graph, context: PassContext) -> list[Rewrite]:
        """Rewrite all attentions that are chosen."""
        lossy = context.lossy or LossyContext()
        rewrites = []
        for node, place in self._found(graph):
            if lossy.permits(self, place) and context.permits(self, node):
                lossy.prepared[self, place] = {}
                g = GraphBuilder(graph, node, made_by=self.name)
                rewrites.append(replace(self.name, {node: self.put(node, g)}, g.made))
        return rewrites

    def _found(self, graph: Graph) -> Iterator[tuple[Node, Place]]:
        counts: Counter[str] = Counter()
        for node in graph.calls():
            if node.target not in (DENSE, WINDOWS):
                continue
            module = provenance_of(node).module
            counts[module] += 1  # also of those that stay: they may not do so in another graph
            if _is_float(node) and self.fits(node) and fnmatchcase(module, self.modules):
                yield node, (hashlib.sha256(f"attention {counts[module]} of {module}".encode()).hexdigest(),)


def keys_of(node: Node) -> int:
    """How many keys there are; of a number that varies, as in the example."""
    keys = arguments(node)["key"].meta["val"].shape[2]
    return keys if isinstance(keys, int) else int(keys.node.hint)


def _is_float(node: Node) -> bool:
    named = arguments(node)
    query = named["query"].meta["val"]
    is_float = query.dtype is torch.float32 and query.device.type == "cpu"
    return is_float and query.ndim == 4 and not named.get("dropout_p")
