"""What flows into linears, over the calls of a calibration."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.fx import Node

from txgraph.ir import Graph, interpret
from txgraph.ir.linears import Linears
from txgraph.rewrite import Observed

MOST_BYTES = 768 << 20  # of moments that are held at a time; else the calls run again


def observe(
    graph: Graph, nodes: Sequence[Node], calls: Sequence[Sequence[torch.Tensor]]
) -> Iterator[Mapping[str, Observed]]:
    """The inputs of some linears, group by group: each as large as memory should hold.

    Args:
        nodes: of ``graph``, or of a copy of it: they are known by their names. calls: tensors of each.
    """
    group: list[Node] = []
    held = 0
    for node in nodes:
        size = moment_bytes([node])
        if group and held + size > MOST_BYTES:
            yield _observe(graph, group, calls)
            group, held = [], 0
        group.append(node)
        held += size
    if group:
        yield _observe(graph, group, calls)


def _observe(graph: Graph, nodes: Sequence[Node], calls: Sequence[Sequence[torch.Tensor]]) -> dict[str, Observed]:
    readers: dict[str, list[str]] = {}
    for node in nodes:
        readers.setdefault(_input(node).name, []).append(node.name)
    rows = dict.fromkeys(readers, 0)
    largest: dict[str, torch.Tensor] = {}
    sums: dict[str, torch.Tensor] = {}

    def look(node: Node, value: Any) -> Any:
        if node.name in readers:
            x = value.reshape(-1, value.shape[-1]).float()
            peak, products = x.abs().amax(0) if len(x) else x.new_zeros(x.shape[1]), x.T @ x
            if node.name in sums:
                largest[node.name] = largest[node.name].maximum(peak)
                sums[node.name] += products
            else:
                largest[node.name], sums[node.name] = peak, products
            rows[node.name] += len(x)
        return value

    for tensors in calls:
        interpret(graph, tensors, look)
    return {
        reader: Observed(rows[name], largest[name], sums[name] / max(rows[name], 1))
        for name, names in readers.items()
        for reader in names
    }


def _input(node: Node) -> Node:
    linears = Linears.of(node)
    assert linears is not None, "a node that computes linears"
    return linears.input


def moment_bytes(nodes: Iterable[Node]) -> int:
    """Of the second moments of the inputs of some linears, each input counted once."""
    return sum(4 * int(each.meta["val"].shape[-1]) ** 2 for each in {_input(node) for node in nodes})
