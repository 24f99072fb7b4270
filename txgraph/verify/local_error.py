"""What each rewrite did to the numbers: where it was made, and at the model's outputs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Node
from torch.utils import _pytree as pytree

from txgraph.ir import Graph, interpret
from txgraph.pipeline import PassResult
from txgraph.rewrite import Rewrite
from txgraph.verify.gates import GateResult, check_gates, same_bits
from txgraph.verify.oracle import in_float64
from txgraph.verify.regions import Region, changed_regions


@dataclass(frozen=True)
class LocalError:
    """What one region computes after a pass, against what it computed before, on the values that flow through it.

    Errors are root mean squares over the region's values, relative to that of the values in float64.

    Attributes:
        before, after: error of the region before and after the rewrite, in the model's dtypes, against itself in
            float64.
        exact: largest ``|L - R| / (1 + |L|)`` of the two in float64: what is not rounding.
        gates: G0 to G3 on each value of the region, which the region before stands for eager in.
        change: root mean square of what the rewrite alone changes at the model's outputs, relative to these.
    """

    before: float
    after: float
    exact: float
    gates: tuple[GateResult, ...]
    change: float

    @property
    def reason(self) -> str:
        """The gates that broke, with both numbers; an empty text if none did."""
        return "; ".join(str(gate) for gate in self.gates if not gate.passed)


def measure_rewrites(result: PassResult, inputs: Callable[[], Sequence[torch.Tensor]]) -> dict[Rewrite, LocalError]:
    """The error of each rewrite of a pass that names the values it replaced.

    The graph before the pass runs once, in eager; a region is compared as soon as all that it reads has been computed,
    and then forgotten. It runs once more for each region whose values differ in any bit, with these values put in.

    Args:
        inputs: gives fresh inputs for each run.
    """
    regions = changed_regions(result.before, result.after, result.rewrites)
    found: dict[Rewrite, LocalError] = {}
    if not regions:
        return found
    compared: list[tuple[Region, _Compared]] = []
    watch = _Flow(regions, lambda region, values: compared.append((region, _compare(region, values))))
    outputs = interpret(result.before, inputs(), watch)
    for region, each in compared:
        change = 0.0 if each.same else _change(result.before, region, inputs(), outputs)
        error = LocalError(each.before, each.after, each.exact, each.gates, change)
        found |= dict.fromkeys(region.rewrites, error)
    return found


@dataclass(frozen=True)
class _Compared:
    before: float
    after: float
    exact: float
    gates: tuple[GateResult, ...]
    same: bool


class _Flow:
    """Watches a graph run, and hands each region the values at its boundary as soon as they are all there."""

    def __init__(self, regions: Sequence[Region], ready: Callable[[Region, Mapping[str, Any]], None]) -> None:
        self._ready = ready
        self._regions: dict[str, list[Region]] = {}
        self._missing = {id(region): len(region.boundary) for region in regions}
        self._held: dict[str, Any] = {}
        self._readers = Counter[str]()
        for region in regions:
            for name in region.boundary:
                self._regions.setdefault(name, []).append(region)
                self._readers[name] += 1

    def __call__(self, node: Node, value: Any) -> Any:
        waiting = self._regions.get(node.name, [])
        if waiting:
            self._held[node.name] = value
        for region in waiting:
            self._missing[id(region)] -= 1
            if not self._missing[id(region)]:
                self._ready(region, self._held)
                self._release(region)
        return value

    def _release(self, region: Region) -> None:
        for name in region.boundary:
            self._readers[name] -= 1
            if not self._readers[name]:
                del self._held[name]


def _compare(region: Region, values: Mapping[str, Any]) -> _Compared:
    read_before, read_after = ([values[name] for name in names] for names in (region.left_inputs, region.right_inputs))
    results = (
        [values[name] for name in region.values],
        interpret(region.right, read_after),
        in_float64(region.left, read_before),
        in_float64(region.right, read_after),
    )
    old, new, truth, exact = map(pytree.tree_leaves, results)
    return _Compared(
        _relative_error(old, truth),
        _relative_error(new, truth),
        max(map(_largest_difference, truth, exact), default=0.0),
        tuple(check_gates(new, old, truth)),
        all(map(_same, old, new)),
    )


def _change(graph: Graph, region: Region, inputs: Sequence[torch.Tensor], outputs: Sequence[Any]) -> float:
    """How far the outputs move if only this region is rewritten."""
    places = {name: at for at, name in enumerate(region.values)}
    held: dict[str, Any] = {}
    made: list[Any] = []

    def put_in(node: Node, value: Any) -> Any:
        if node.name in region.right_inputs:
            held[node.name] = value
        if node.name not in places:
            return value
        if not made:
            made.extend(interpret(region.right, [held[name] for name in region.right_inputs]))
        return made[places[node.name]]

    return _relative_error(interpret(graph, inputs, put_in), outputs)


def _relative_error(values: Sequence[Any], truth: Sequence[Any]) -> float:
    """The largest relative root mean square error of a value; elements that are not finite are left to the gates."""
    return max(map(_relative_error_of, values, truth), default=0.0)


def _relative_error_of(value: Any, truth: Any) -> float:
    if not isinstance(value, torch.Tensor) or not isinstance(truth, torch.Tensor) or value.shape != truth.shape:
        return 0.0
    value, truth = value.double(), truth.double()
    finite = value.isfinite() & truth.isfinite()
    size = float(truth[finite].square().mean().sqrt()) if bool(finite.any()) else 0.0
    error = float((value - truth)[finite].square().mean().sqrt()) if bool(finite.any()) else 0.0
    return error / size if size else math.inf if error else 0.0


def _largest_difference(left: Any, right: Any) -> float:
    if not isinstance(left, torch.Tensor) or not isinstance(right, torch.Tensor) or left.shape != right.shape:
        return 0.0
    left, right = left.double(), right.double()
    finite = left.isfinite() & right.isfinite()
    difference = ((left - right).abs() / (1 + left.abs()))[finite]
    return float(difference.max()) if difference.numel() else 0.0


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return same_bits(a, b)
    return bool(a == b)
