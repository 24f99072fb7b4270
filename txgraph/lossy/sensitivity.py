"""What one lossy rewrite alone changes at a model's outputs.

The exact graph runs once for each call. For each rewrite only what follows from its values runs again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Node

from txgraph.ir import Graph, extract, interpret
from txgraph.rewrite import Rewrite


@dataclass(frozen=True)
class Probe:
    """One rewrite, and how to see what it does.

    Attributes:
        part: computes the new values; its inputs are values of the exact graph, by ``part_inputs``.
        old: names of the values that it replaces. tail: computes the outputs that follow from these.
        outputs: places of these among the graph's outputs.
        at_once: outputs that are replaced values themselves: their place, and which value.
    """

    rewrite: Rewrite
    part: Graph
    part_inputs: tuple[str, ...]
    old: tuple[str, ...]
    tail: Graph | None
    outputs: tuple[int, ...]
    at_once: tuple[tuple[int, int], ...]


def probes(graph: Graph, treated: Graph, rewrites: Sequence[Rewrite]) -> list[Probe]:
    """One for each rewrite of a pass.

    Args:
        graph: exact. treated: what the pass made of it.
    """
    names = {new: old for rewrite in rewrites for old, new in rewrite.values}
    calls = {node.name for node in treated.calls()}
    tails: dict[tuple[str, ...], tuple[Graph | None, tuple[int, ...]]] = {}
    found = []
    for rewrite in rewrites:
        old = tuple(before for before, _ in rewrite.values)
        part = extract(treated, [n for n in rewrite.made if n in calls], outputs=[new for _, new in rewrite.values])
        inputs = tuple(names.get(node.name, node.name) for node in part.inputs)
        if old not in tails:
            tails[old] = _tail(graph, old)
        at_once = tuple((at, old.index(n.name)) for at, n in _float_outputs(graph) if n.name in old)
        found.append(Probe(rewrite, part, inputs, old, *tails[old], at_once))
    return found


def squared_errors(graph: Graph, tried: Sequence[Probe], calls: Sequence[Sequence[torch.Tensor]]) -> Iterator[float]:
    """For each rewrite ``||y - y'||^2 / ||y||^2`` of the output that it changes most, over all calls.

    Args:
        graph: exact, gives ``y``. calls: tensors of each.
    """
    wanted = {name for probe in tried for name in probe.part_inputs}
    wanted |= {node.name for probe in tried if probe.tail is not None for node in probe.tail.inputs}
    runs: list[tuple[dict[str, Any], tuple[Any, ...]]] = []
    for tensors in calls:
        held: dict[str, Any] = {}

        def hold(node: Node, value: Any, held: dict[str, Any] = held) -> Any:
            if node.name in wanted:
                held[node.name] = value
            return value

        runs.append((held, interpret(graph, tensors, hold)))
    sizes = [{at: _square(outputs[at]) for at, _ in _float_outputs(graph)} for _, outputs in runs]
    for probe in tried:
        errors: dict[int, float] = {}
        for held, outputs in runs:
            for at, value in _changed(probe, held):
                errors[at] = errors.get(at, 0.0) + _square(value, outputs[at])
        yield max((_ratio(errors[at], sum(size[at] for size in sizes)) for at in errors), default=0.0)


def _changed(probe: Probe, held: dict[str, Any]) -> Iterator[tuple[int, torch.Tensor]]:
    """The outputs that a rewrite changes, with their places."""
    new = dict(zip(probe.old, interpret(probe.part, [held[name] for name in probe.part_inputs]), strict=True))
    for at, which in probe.at_once:
        yield at, new[probe.old[which]]
    if probe.tail is not None:
        values = interpret(probe.tail, [new[n.name] if n.name in new else held[n.name] for n in probe.tail.inputs])
        yield from zip(probe.outputs, values, strict=True)


def _tail(graph: Graph, old: Sequence[str]) -> tuple[Graph | None, tuple[int, ...]]:
    changed = set(old)
    names = []
    for node in graph.calls():
        if node.name not in changed and any(source.name in changed for source in node.all_input_nodes):
            changed.add(node.name)
            names.append(node.name)
    outputs = [(at, node.name) for at, node in _float_outputs(graph) if node.name in names]
    if not outputs:
        return None, ()
    part = extract(graph, names, outputs=[name for _, name in outputs])
    return part, tuple(at for at, _ in outputs)


def _float_outputs(graph: Graph) -> list[tuple[int, Node]]:
    values = [(at, n) for at, n in enumerate(graph.outputs) if isinstance(n, Node)]
    return [(at, n) for at, n in values if n.meta["val"].is_floating_point()]


def _square(value: torch.Tensor, other: torch.Tensor | None = None) -> float:
    """Of all numbers of a value, or of what it differs by, where the value that counts is finite."""
    difference = value if other is None else value - other
    total = float(torch.linalg.vector_norm(difference, dtype=torch.float64)) ** 2
    if math.isfinite(total):
        return total
    counted = (value if other is None else other).isfinite()
    return float(difference.double().where(counted, 0.0).square().sum())


def _ratio(error: float, size: float) -> float:
    if math.isnan(error):
        return math.inf
    return error / size if size else math.inf if error else 0.0
