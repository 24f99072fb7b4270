"""Which rewrites pay on the user's own model: each kind is compiled and timed, before and after.

What a rewrite removes, and what it makes, are two small graphs. Both are lowered by the backend and run on random
values of the types that the model has there. Rewrites that are equal but for their weights are one kind, if these are
zero to the same part: where they mostly are, linears may be computed differently. Where time depends on the values that
flow in, these are given, and each rewrite is a kind of its own.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from functools import partial

import torch

from txgraph.backends import Backend, Compiled
from txgraph.cost import CostModel, Measurement, best_seconds, random_like
from txgraph.errors import BackendFailed
from txgraph.ir import Graph, extract
from txgraph.ir.subgraph import kind_of
from txgraph.ir.zeros import nonzero_percent
from txgraph.options import BackendOptions, Target
from txgraph.pipeline import PassResult
from txgraph.progress import say
from txgraph.rewrite import Rewrite

log = logging.getLogger(__name__)

SECONDS = 0.2  # of running, for each kind of rewrite
Values = Mapping[str, torch.Tensor]  # by names of nodes


class RewriteTimer:
    """Measures the rewrites of passes that save time.

    Args:
        rivals: whether many rewrites replace the same: what that is compiled to is kept.
    """

    def __init__(self, backend: Backend, target: Target, options: BackendOptions, rivals: bool = False) -> None:
        self._lower = partial(backend.lower, target=target, options=options)
        self._target = target
        self._measured: dict[str, Measurement] = {}
        self._compiled: dict[str, Compiled] = {}
        self._replaced: dict[str, Callable[[], object]] | None = {} if rivals else None

    @property
    def measurements(self) -> list[Measurement]:
        """Each kind of rewrite seen so far."""
        return list(self._measured.values())

    def slower(self, result: PassResult) -> dict[str, str]:
        """The roots of the rewrites that do not pay, with the figures."""
        if not result.each.pays:
            return {}
        return {root: f"no gain: {measured}" for root, measured in self.times(result) if not measured.pays}

    def times(
        self, result: PassResult, values: Mapping[str, Values] | None = None
    ) -> Iterator[tuple[str, Measurement]]:
        """What each rewrite of a pass takes and gives, by its root.

        Args:
            values: by roots, what flows in there; cut or repeated to the sizes of the graph. Others are random.
        """
        stay = {node.name for node in result.after.nodes}
        stay |= {name for rewrite in result.rewrites for name in rewrite.removed}  # these go with their own rewrite
        renamed = [pair for rewrite in result.rewrites for pair in rewrite.values]
        for rewrite in result.rewrites:
            given = dict((values or {}).get(rewrite.root, {}))
            given |= {new: given[old] for old, new in renamed if old in given}
            yield rewrite.root, self._measure(rewrite, result, stay, given)

    def _measure(self, rewrite: Rewrite, result: PassResult, stay: Collection[str], values: Values) -> Measurement:
        before, after = result.before, result.after
        if not {node.name for node in before.nodes}.issuperset(rewrite.removed):
            return Measurement(rewrite.rule, rewrite.root, problem="it rewrites what the same pass has made")
        old, new = _gone(before, rewrite.removed, stay), _operators(after, rewrite.made)
        replaced = f"{kind_of(before, old)} {_zeros(before, old)}"
        key = f"{rewrite.rule}\n{replaced}\n{kind_of(after, new)} {_zeros(after, new)}"
        if values:
            key += rewrite.root
        known = self._measured.get(key)
        if known is None:
            parts = (before, old), (after, new)
            self._measured[key] = measured = self._time(rewrite, result.context.cost, values, replaced, *parts)
            log.info("%s at %s: %s", rewrite.rule, rewrite.root, measured)
            return measured
        self._measured[key] = replace(known, places=known.places + 1)
        return known

    def _time(
        self, rewrite: Rewrite, cost: CostModel, values: Values, replaced: str, *parts: tuple[Graph, list[str]]
    ) -> Measurement:
        runs: list[Callable[[], object]] = []
        kept = None if values else self._replaced
        for graph, names in parts:
            if kept is not None and not runs and replaced in kept:
                runs.append(kept[replaced])
                continue
            part = extract(graph, names)
            other = next((n for n in part.inputs if not isinstance(n.meta["val"], torch.Tensor)), None)
            problem = "" if other is None else f"it takes %{other.name}, which is no tensor"
            try:
                runs.append(self._runner(part, values) if names and not problem else _nothing)
            except BackendFailed as error:
                problem = str(error)
            if problem:
                before, after = (cost.seconds(n for n in g.calls() if n.name in names) for g, names in parts)
                return Measurement(rewrite.rule, rewrite.root, before, after, problem)
        if kept is not None:
            kept[replaced] = runs[0]
        say("measure", f"{rewrite.rule} at %{rewrite.root}", timed=True)
        with torch.no_grad():
            before, after = best_seconds(*runs, seconds=SECONDS)
        return Measurement(rewrite.rule, rewrite.root, before, after)

    def _runner(self, part: Graph, values: Values) -> Callable[[], object]:
        compiled = self._lowered(part, again=bool(values))
        inputs = [random_like(node.meta["val"]) for node in part.inputs]
        for node, tensor in zip(part.inputs, inputs, strict=True):
            if node.name in values and values[node.name].ndim == tensor.ndim:
                _fill(tensor, values[node.name])

        def run() -> None:
            compiled.run(inputs)
            if self._target.kind == "cuda":
                torch.cuda.synchronize()

        return run

    def _lowered(self, part: Graph, again: bool) -> Compiled:
        """Compiled; kept if it may be asked for again, and no values of constants are in it."""
        if part.constants or not again:
            return self._lower(part)
        kind = kind_of(part, [node.name for node in part.calls()])
        if kind not in self._compiled:
            self._compiled[kind] = self._lower(part)
        return self._compiled[kind]


def _zeros(graph: Graph, names: Collection[str]) -> list[int | None]:
    """How much of the matrices that these operators read is not zero, in their order."""
    read = dict.fromkeys(s for node in graph.calls() if node.name in names for s in node.all_input_nodes)
    held = [graph.constant(source) for source in read]
    return [nonzero_percent([tensor]) for tensor in held if tensor is not None and tensor.ndim == 2]


def _operators(graph: Graph, names: Collection[str]) -> list[str]:
    """Those of the names that are operators of the graph; what nothing uses is gone from it."""
    return [node.name for node in graph.calls() if node.name in names]


def _gone(before: Graph, removed: Collection[str], stay: Collection[str]) -> list[str]:
    """The operators that a rewrite removed, and those that only they used, unless these stay."""
    gone = set(removed)
    for node in reversed(before.calls()):
        if node.name not in stay and node.users and all(user.name in gone for user in node.users):
            gone.add(node.name)
    return _operators(before, gone)


def _nothing() -> None:
    """What a rewrite makes that only removes."""


def _fill(tensor: torch.Tensor, value: torch.Tensor) -> None:
    """With a value of other sizes: cut, or again from its start; each place in memory once."""
    tensor = tensor[tuple(slice(None) if step else slice(1) for step in tensor.stride())]
    for axis, size in enumerate(tensor.shape):
        value = value.index_select(axis, torch.arange(size, device=value.device) % value.shape[axis])
    tensor.copy_(value)
