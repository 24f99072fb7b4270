"""One place where a pattern fits, and one where it almost does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.fx import Node

from txgraph.ir import Graph, TensorType, describe, provenance_of, type_of

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
    """

    root: Node
    nodes: tuple[Node, ...]
    bound: Mapping[str, Any]
    graph: Graph
    context: PassContext

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
        root: where the match was tried.
        depth: how many nodes matched before the first failing condition.
        reason, node: that condition, and the node it failed at.
    """

    rule: str
    root: str
    depth: int
    reason: str
    node: str
    location: str

    @classmethod
    def at(cls, rule: str, root: Node, depth: int, reason: str, node: Node | None) -> NearMiss:
        """A near miss at ``root`` that failed at ``node``."""
        place = node if node is not None else root
        return cls(rule, root.name, depth, reason, describe(place), provenance_of(place).location)

    def __str__(self) -> str:
        return f"{self.rule} at %{self.root}: {self.reason} [{self.node}]"
