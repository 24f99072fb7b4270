"""One place where a pattern fits, and one where it almost does."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.fx import Node

from txgraph.ir import Graph, TensorType, describe, provenance_of, type_of
from txgraph.ir.known_values import KnownValues

if TYPE_CHECKING:
    from txgraph.rewrite.base import PassContext


@dataclass(frozen=True)
class Match:
    """A place where a pattern fits.

    Attributes:
        root: the outermost node, whose value the rewrite replaces.
        nodes: all operator nodes of the match, root first.
        bound: the values bound to the pattern's names.
        graph: the graph that the nodes belong to; a rule only reads it.
        context: the target and what the backend profits from.
        known: which values are known before any call.
    """

    root: Node
    nodes: tuple[Node, ...]
    bound: Mapping[str, Any]
    graph: Graph
    context: PassContext
    known: KnownValues

    def __getitem__(self, name: str) -> Any:
        return self.bound[name]

    def get(self, name: str, default: Any = None) -> Any:
        """The value bound to ``name``; ``default`` where an optional part is absent."""
        return self.bound.get(name, default)

    def type(self, name: str) -> TensorType:
        """Type of the tensor bound to ``name``.

        Raises:
            TypeError: the value is not a tensor.
        """
        tensor_type = type_of(self.bound[name])
        if tensor_type is None:
            raise TypeError(f"{name!r} is bound to {self.bound[name]!r}, which is not a tensor")
        return tensor_type

    def seconds_saved(self, made: Iterable[Node]) -> float:
        """Predicted seconds of the matched nodes less those of the nodes made in their place.

        What depends on constants alone is computed once, when constants are folded, and costs nothing.
        """
        cost = self.context.cost
        before, after = ([n for n in nodes if n not in self.known] for nodes in (self.nodes, made))
        return cost.seconds(before) - cost.seconds(after)

    def constant(self, name: str) -> torch.Tensor:
        """Values of the constant bound to ``name``; the graph then depends on them.

        Raises:
            TypeError: the value is not a constant of the graph.
        """
        tensor = self.graph.constant(self.bound[name])
        if tensor is None:
            raise TypeError(f"{name!r} is bound to {self.bound[name]!r}, which is not a constant")
        self.graph.constants.observe([str(self.bound[name].target)])
        return tensor


@dataclass(frozen=True)
class NearMiss:
    """A place where a rule almost applied: what stopped it, and where.

    Attributes:
        rule: name of the pass.
        root: name of the node where it was tried.
        reason: the first failing condition.
        node: the node it failed at, described with the user's source line.
        module, location: of that node: the user's module path, and the source line.
        complete: the whole pattern fitted, and was rejected by a condition.
        depth: how many nodes fitted.
    """

    rule: str
    root: str
    reason: str
    node: str
    module: str = ""
    location: str = ""
    complete: bool = True
    depth: int = 1

    @classmethod
    def at(
        cls, rule: str, root: Node, reason: str, node: Node | None = None, complete: bool = True, depth: int = 1
    ) -> NearMiss:
        """A near miss at ``root`` that failed at ``node`` (``None``: at the root)."""
        place = node if node is not None else root
        origin = provenance_of(place)
        return cls(rule, root.name, reason, describe(place), origin.module, origin.location, complete, depth)

    @property
    def nearness(self) -> tuple[bool, int]:
        """The larger, the nearer."""
        return (self.complete, self.depth)

    def __str__(self) -> str:
        return f"%{self.root}: {self.reason} [{self.node}]"
