"""Passes that change numbers on purpose, each place within a budget: the classes that they derive from.

A lossy pass runs after all exact ones, on what they made. What it puts in the place of a weight is prepared once, from
the weight's values and what flowed into it over the calibration, and used in every graph of the model.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, ClassVar

import torch
from torch.fx import Node

from txgraph.ir import Graph, GraphBuilder, provenance_of, type_of
from txgraph.ir.digest import digest_of
from txgraph.ir.linears import Linears, names_of, results_of
from txgraph.ir.node import GETITEM
from txgraph.ir.zeros import nonzero_percent
from txgraph.rewrite.base import Pass, PassContext, Rewrite, replace

Prepared = Mapping[str, torch.Tensor]
Place = tuple[str, ...]  # where a pass rewrites, in any graph of a model: digests of the weights


@dataclass(frozen=True)
class Observed:
    """What flowed into linears over the calibration.

    Attributes:
        rows: how many vectors. largest: of each channel the largest magnitude, ``[K]``.
        moments: the mean of ``x x^T``, ``[K, K]`` float32.
    """

    rows: int
    largest: torch.Tensor
    moments: torch.Tensor


Observe = Callable[[Graph, Sequence[Node]], Iterable[Mapping[str, Observed]]]


@dataclass(frozen=True)
class LossyContext:
    """What lossy passes share over all graphs of a model.

    Attributes:
        observe: by the names of some nodes, what flows into them, a few at a time; none where there is no calibration.
        prepared: what passes have put in the places of weights, or why they cannot.
        chosen: the passes with their places that may be rewritten; ``None``: all.
        draft: whether only the time of what is made matters.
    """

    observe: Observe | None = None
    prepared: MutableMapping[tuple[Pass, Place], Prepared | str] = field(default_factory=dict)
    chosen: Collection[tuple[Pass, Place]] | None = None
    draft: bool = False
    _digests: dict[tuple[Any, ...], tuple[torch.Tensor, str]] = field(default_factory=dict, repr=False)

    def place(self, weights: Sequence[torch.Tensor]) -> Place:
        """Weights as they are known in every graph: by their values."""
        return tuple(map(self._digest, weights))

    def permits(self, each: Pass, place: Place) -> bool:
        """Whether that pass may rewrite there."""
        return self.chosen is None or (each, place) in self.chosen

    def give_back(self, taken: Collection[int], held: Collection[tuple[Pass, Place]]) -> None:
        """The memory of what no graph took; what is asked for again is prepared again.

        Args:
            taken: where the constants of a graph begin in memory. held: what graphs before it took.
        """
        for key, prepared in [*self.prepared.items()]:
            tensors = () if isinstance(prepared, str) else prepared.values()
            if tensors and key not in held and all(tensor.data_ptr() not in taken for tensor in tensors):
                del self.prepared[key]
        self._digests.clear()

    def _digest(self, weight: torch.Tensor) -> str:
        version = 0 if weight.is_inference() else weight._version
        key = (weight.data_ptr(), tuple(weight.shape), weight.stride(), version)
        if key not in self._digests:
            self._digests[key] = weight, digest_of(weight)  # held: no other tensor gets its memory meanwhile
        return self._digests[key][1]


class LossyPass(Pass):
    """A pass whose results differ from the model's: applied under a budget only.

    Its rewrites name the values that they replace, and each can be made without the others.

    Attributes:
        by_shape: whether its time depends on shapes only, so that one place tells of all that are alike.
        by_value: whether it depends on the values that flow in: it is measured on those of the calibration.
    """

    by_shape: ClassVar[bool] = False
    by_value: ClassVar[bool] = False

    @property
    def parts(self) -> tuple[LossyPass, ...]:
        """The passes that it runs at a place, one after the other, if it is made of such."""
        return ()

    @property
    def label(self) -> str:
        """Name and settings in short, for reports."""
        return self.name

    def fails_with(self, other: LossyPass) -> bool:
        """Whether it cannot be done at a place where that one cannot."""
        return False

    @abstractmethod
    def places(self, graph: Graph, lossy: LossyContext) -> Mapping[str, Place]:
        """Where it can rewrite: by the name of the root that the rewrite would have, where in the model that is."""

    def module_of(self, root: Node) -> str:
        """Where that is, for people."""
        return provenance_of(root).module

    def shape_of(self, graph: Graph, root: Node) -> str:
        """Equal for places that take equally long, if it is :attr:`by_shape`."""
        return ""


@dataclass(frozen=True)
class LinearPass(LossyPass):
    """A lossy pass that gives float32 linears, each by itself, another form.

    Attributes:
        modules: only linears of modules whose names are like this, as in ``"*.intermediate.*"``.
    """

    modules: str = "*"

    @abstractmethod
    def prepare(self, weights: Sequence[torch.Tensor], observed: Observed | None) -> Prepared | str:
        """New constants for linears of one input, or why there are none.

        Args:
            weights: each ``[N, K]``. observed: what flows into them, where there is a calibration.
        """

    def draft(self, weights: Sequence[torch.Tensor]) -> Prepared | str:
        """What takes as long as what :meth:`prepare` gives, for less work: asked for where time depends on shapes."""
        return self.prepare(weights, None)

    @abstractmethod
    def put(self, linears: Linears, constants: Mapping[str, Node], g: GraphBuilder) -> Sequence[Node]:
        """Nodes that compute the linears from these constants: one ``[..., N]`` for each weight."""

    def places(self, graph: Graph, lossy: LossyContext) -> Mapping[str, Place]:
        """All linears it knows, each by its weights."""
        held = ((node, self._weights(graph, node)) for node in graph.calls())
        return {root.name: lossy.place(w) for node, w in held if w is not None for _, root in results_of(node)[:1]}

    def module_of(self, root: Node) -> str:
        """The modules whose weights these are; of one that belongs to another, such as an embedding, who computes."""
        linears = Linears.of(_computing(root))
        computes = super().module_of(root)
        if linears is None:
            return computes
        first, *others = (name.rpartition(".")[0] for name in names_of(linears.weights))
        if not others and computes and not f"{first}.".startswith(f"{computes}."):
            return computes
        return ", ".join((first, *(other.rpartition(".")[2] for other in others)))

    def shape_of(self, graph: Graph, root: Node) -> str:
        """Sizes of input and weights, how much of these is zero, and what is computed on the way."""
        linears = Linears.of(_computing(root))
        weights = [] if linears is None else linears.frozen_weights(graph) or []
        if linears is None:
            return ""
        forms = [(tuple(w.shape), w.stride(), b is not None) for w, b in zip(weights, linears.biases, strict=True)]
        return f"{type_of(linears.input)} {forms} {nonzero_percent(weights)} {linears.activation}"

    def run(self, graph: Graph, context: PassContext) -> list[Rewrite]:
        """Rewrite all linears that are chosen; what is not prepared yet is prepared now."""
        lossy = context.lossy or LossyContext()
        places = {}
        for node in graph.calls():
            weights = self._weights(graph, node)
            place = None if weights is None else lossy.place(weights)
            results = results_of(node) if place is not None and lossy.permits(self, place) else []
            if place is not None and results and context.permits(self, results[0][1]):
                places[node] = place
        missing = [node for node, place in places.items() if (self, place) not in lossy.prepared]
        nothing: list[Mapping[str, Observed | None]] = [dict.fromkeys(node.name for node in missing)]
        for observed in nothing if lossy.observe is None else lossy.observe(graph, missing):
            for node in (node for node in missing if node.name in observed):
                weights = self._weights(graph, node)
                assert weights is not None, "as above"
                made = self.draft(weights) if lossy.draft else self.prepare(weights, observed[node.name])
                lossy.prepared[self, places[node]] = made
        rewrites = []
        for node, place in places.items():
            prepared = lossy.prepared[self, place]
            if isinstance(prepared, str):
                context.decline(self, node, prepared)
            else:
                rewrites.append(self._rewrite(graph, node, prepared))
        return rewrites

    def _weights(self, graph: Graph, node: Node) -> list[torch.Tensor] | None:
        linears = Linears.of(node)
        if linears is None:
            return None
        weights = linears.frozen_weights(graph)
        if weights is None or any(weight.dtype is not torch.float32 for weight in weights):
            return None
        return weights if _is_among(graph, node, linears, self.modules) else None

    def _rewrite(self, graph: Graph, node: Node, prepared: Prepared) -> Rewrite:
        linears = Linears.of(node)
        assert linears is not None, "found by it"
        g = GraphBuilder(graph, node, made_by=self.name)
        names = names_of(linears.weights)
        constants = {key: g.constant(f"{names[0]}_{key}", tensor, names) for key, tensor in prepared.items()}
        values = self.put(linears, constants, g)
        results = results_of(node)
        if results == [(0, node)]:
            return replace(self.name, {node: values[0]}, g.made)
        return replace(self.name, {piece: values[at] for at, piece in results}, g.made, [node])


def _computing(root: Node) -> Node:
    """The node that computes linears, of one of the values that it gives."""
    source = root.args[0] if root.target is GETITEM else root
    assert isinstance(source, Node), "items are of nodes"
    return source


def _is_among(graph: Graph, node: Node, linears: Linears, modules: str) -> bool:
    """Whether the node, or one of its weights, is of such a module."""
    names = {provenance_of(node).module, *(name.rpartition(".")[0] for name in names_of(linears.weights))}
    return any(fnmatchcase(name, modules) for name in names)
