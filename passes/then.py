"""Two lossy passes at one place, one after the other: fewer heads, and what is left of their linears in 8 bits.

before:  what the first pass rewrites
after:   what it makes, its linears rewritten by the second
legal:   lossy: under a budget only
pays:    what both do; each alone may leave much of a large budget
source:  Frantar and Alistarh 2022 (Optimal Brain Compression), for pruning and rounding the same weights in turn
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from torch.fx import Node

from txgraph.ir import Graph
from txgraph.rewrite import LinearPass, LossyContext, LossyPass, PassContext, Place, Rewrite


@dataclass(frozen=True)
class Then(LossyPass):
    """What one pass does, and then another on the linears that it made.

    Attributes:
        first: any lossy pass. second: one of linears; prepared by what flows into them where ``first`` rewrote all its
            places.
    """

    first: LossyPass
    second: LinearPass

    @property
    def label(self) -> str:
        return f"{self.first.label}, then {self.second.label}"

    @property
    def parts(self) -> tuple[LossyPass, ...]:
        return self.first, self.second

    def fails_with(self, other: LossyPass) -> bool:
        """Where the first cannot be done, it cannot."""
        return other == self.first or self.first.fails_with(other)

    def places(self, graph: Graph, lossy: LossyContext) -> Mapping[str, Place]:
        """Those of the first."""
        return self.first.places(graph, lossy)

    def module_of(self, root: Node) -> str:
        return self.first.module_of(root)

    def run(self, graph: Graph, context: PassContext) -> list[Rewrite]:
        """Rewrite all places that are chosen; what is not prepared yet is prepared now, for all of them alike."""
        lossy = context.lossy or LossyContext()
        places = self.places(graph, lossy)
        chosen = {place for place in places.values() if lossy.permits(self, place)}
        if any((self, place) not in lossy.prepared for place in chosen):
            self._run(graph.copy(), context, lossy, set(places.values()))
            lossy.prepared.update({(self, place): {} for place in places.values()})
        rewrites = self._run(graph, context, lossy, chosen)
        for root in places.keys() - {rewrite.root for rewrite in rewrites}:
            reason = lossy.prepared.get((self.first, places[root]))
            if isinstance(reason, str):
                lossy.prepared[self, places[root]] = reason
        return rewrites

    def _run(self, graph: Graph, context: PassContext, lossy: LossyContext, places: Collection[Place]) -> list[Rewrite]:
        found = self.first.run(graph, _choosing(context, lossy, {(self.first, place) for place in places}))
        made = {name for rewrite in found for name in rewrite.made}
        inner = {(self.second, place) for root, place in self.second.places(graph, lossy).items() if root in made}
        after = self.second.run(graph, _choosing(context, lossy, inner))
        unused = {node.name for node in graph.nodes if node.op == "get_attr" and not node.users}
        return [self._joint(rewrite, after, unused) for rewrite in found]

    def _joint(self, rewrite: Rewrite, after: Collection[Rewrite], unused: Collection[str]) -> Rewrite:
        """One rewrite of what the first made, and of what the second made of that."""
        follow = [each for each in after if each.root in rewrite.made]
        gone = {name for each in follow for name in each.removed}.union(unused)
        new = dict(pair for each in follow for pair in each.values)
        made = (*(n for n in rewrite.made if n not in gone), *(n for each in follow for n in each.made))
        values = tuple((old, new.get(value, value)) for old, value in rewrite.values)
        return dataclasses.replace(rewrite, rule=self.name, made=made, values=values)


def _choosing(context: PassContext, lossy: LossyContext, chosen: Collection[tuple[LossyPass, Place]]) -> PassContext:
    return dataclasses.replace(context, lossy=dataclasses.replace(lossy, chosen=frozenset(chosen)))
