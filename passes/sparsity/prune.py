"""What pruning of hidden channels and of heads has in common: which units go, and what the rest makes good."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch

from txgraph.ir import Graph, provenance_of
from txgraph.ir.linears import Linears, names_of
from txgraph.passes.moments import shrunk_moments
from txgraph.passes.sparsity.flow import UnitFlow
from txgraph.passes.sparsity.importance import refit, unit_importance
from txgraph.passes.sparsity.linears import linear_of
from txgraph.passes.sparsity.take_out import without_units
from txgraph.rewrite import LossyContext, LossyPass, Observed, PassContext, Place, Prepared, Rewrite


@dataclass(frozen=True, kw_only=True)
class PruneUnits(LossyPass):
    """Takes out the units that matter least to the linear that reads them, and refits that linear.

    Attributes:
        fraction: of the units of a block that go. modules: only blocks whose reading linear is of such a module.

    Raises:
        ValueError: ``fraction`` is not between 0 and 1.
    """

    fraction: float
    modules: str = "*"

    def __post_init__(self) -> None:
        if not 0 < self.fraction < 1:
            raise ValueError(f"{type(self).__name__}: fraction={self.fraction!r}, expected more than 0 and less than 1")

    @abstractmethod
    def flows(self, graph: Graph) -> Sequence[UnitFlow]:
        """The blocks of a graph."""

    def places(self, graph: Graph, lossy: LossyContext) -> Mapping[str, Place]:
        """All blocks, by the linears that read them."""
        found = ((flow.readers[0].name, self._place(graph, flow, lossy)) for flow in self.flows(graph))
        return {root: place for root, place in found if place is not None}

    def run(self, graph: Graph, context: PassContext) -> list[Rewrite]:
        """Prune all blocks that are chosen; what goes is decided once for each place."""
        lossy = context.lossy or LossyContext()
        self._prepare(graph, [f for f in self.flows(graph) if self._is_chosen(graph, f, lossy)], lossy)
        rewrites: list[Rewrite] = []
        done: set[Place] = set()
        while True:
            for flow in self.flows(graph):  # anew: a rewrite makes other nodes
                place = self._place(graph, flow, lossy)
                if place is not None and place not in done and (self, place) in lossy.prepared:
                    done.add(place)
                    if self._is_chosen(graph, flow, lossy) and context.permits(self, flow.readers[0]):
                        rewrites += self._rewrite(graph, flow, lossy.prepared[self, place], context)
                        break
            else:
                return rewrites

    def _is_chosen(self, graph: Graph, flow: UnitFlow, lossy: LossyContext) -> bool:
        reader = flow.readers[0]
        linears = Linears.of(reader)
        names = [provenance_of(reader).module]
        names += [] if linears is None else [name.rpartition(".")[0] for name in names_of(linears.weights)]
        place = self._place(graph, flow, lossy)
        return place is not None and any(fnmatchcase(n, self.modules) for n in names) and lossy.permits(self, place)

    def _place(self, graph: Graph, flow: UnitFlow, lossy: LossyContext) -> Place | None:
        makers = [maker for value in flow.made if (maker := linear_of(value)) is not None]
        weights: list[torch.Tensor] = []
        for node in dict.fromkeys((*makers, *flow.readers)):
            linears = Linears.of(node)
            held = None if linears is None else linears.frozen_weights(graph)
            if held is None or any(weight.dtype is not torch.float32 for weight in held):
                return None
            weights += held
        return lossy.place(weights)

    def _prepare(self, graph: Graph, flows: Sequence[UnitFlow], lossy: LossyContext) -> None:
        missing = {
            flow.readers[0]: flow
            for flow in flows
            if (self, self._place(graph, flow, lossy)) not in lossy.prepared and len(flow.readers) == 1
        }
        nothing: list[Any] = [dict.fromkeys(node.name for node in missing)]
        for observed in nothing if lossy.observe is None else lossy.observe(graph, [*missing]):
            for reader in (node for node in missing if node.name in observed):
                place = self._place(graph, missing[reader], lossy)
                assert place is not None, "chosen by it"
                lossy.prepared[self, place] = self._choose(graph, missing[reader], observed[reader.name])

    def _choose(self, graph: Graph, flow: UnitFlow, observed: Observed | None) -> Prepared | str:
        """Which units stay, and the weight of what reads them."""
        linears = Linears.of(flow.readers[0])
        weights = None if linears is None else linears.frozen_weights(graph)
        if weights is None or len(weights) != 1:
            return "several weights read the units"
        weight = weights[0].detach()
        labels = flow.units[flow.read[0][0]].labels
        labels = labels.repeat(weight.shape[1] // len(labels))
        moments = shrunk_moments(observed, weight.shape[1])
        importance = unit_importance(moments, labels.clamp_min(0), weight)
        gone = int(self.fraction * flow.count)
        if not 0 < gone < flow.count:
            return f"{self.fraction:.0%} of {flow.count} units is none, or all"
        stays = torch.ones(flow.count, dtype=torch.bool)
        stays[importance.argsort()[:gone]] = False
        kept = (stays[labels.clamp_min(0)] | (labels < 0)).nonzero().flatten()
        return {"stays": stays, "weight": refit(weight, moments, kept).float()}

    def _rewrite(self, graph: Graph, flow: UnitFlow, prepared: Prepared | str, context: PassContext) -> list[Rewrite]:
        reader = flow.readers[0]
        if isinstance(prepared, str):
            context.decline(self, reader, prepared)
            return []
        linears = Linears.of(reader)
        assert linears is not None, "prepared for them"
        weights = dict.fromkeys(names_of(linears.weights), prepared["weight"])
        smaller = without_units(graph, flow, prepared["stays"], self.name, weights=weights)
        new = smaller.values[reader]
        name = reader.name
        rewrite = smaller.apply(self.name, exact=False)
        return [dataclasses.replace(rewrite, values=((name, new.name),))]  # what is between has other channels
