"""A piece of the graph that occurs several times, and how to take one of its copies out."""

from __future__ import annotations

from dataclasses import dataclass

from txgraph.ir.graph import Graph
from txgraph.ir.node import provenance_of
from txgraph.ir.subgraph import extract


@dataclass(frozen=True)
class Region:
    """A piece of the graph that occurs several times, one copy after the other.

    Attributes:
        instances: names of the nodes of each copy, in an order in which they can be computed;
            ``instances[k][j]`` corresponds to ``instances[0][j]``.
        inputs: for each copy, what it takes from outside, constants included. An input is the same value in all
            copies, or a value of the copy's own that needs no other copy (a constant, its part of a joint product),
            or the same output of the copy before.
        outputs: for each copy, the values that are used outside of it in at least one copy.
    """

    instances: tuple[tuple[str, ...], ...]
    inputs: tuple[tuple[str, ...], ...]
    outputs: tuple[tuple[str, ...], ...]

    @property
    def count(self) -> int:
        """How many copies there are."""
        return len(self.instances)

    def module(self, graph: Graph, instance: int) -> str:
        """The path of the innermost module that holds a copy, for display; empty if it is the model itself."""
        names = set(self.instances[instance])
        paths = {provenance_of(node).module for node in graph.nodes if node.name in names} - {""}
        common: list[str] = []
        for parts in zip(*(path.split(".") for path in paths), strict=False):
            if len(set(parts)) > 1:
                break
            common.append(parts[0])
        return ".".join(common)


def outline(graph: Graph, region: Region, instance: int = 0) -> Graph:
    """One copy as a graph of its own, with the same names; all its inputs, constants too, are placeholders.

    With the inputs of another copy it computes that copy.
    """
    return extract(graph, region.instances[instance], region.inputs[instance], region.outputs[instance])
