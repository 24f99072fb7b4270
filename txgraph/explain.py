"""Why a pass rewrote what it did, and what it almost rewrote."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from txgraph.ir import Graph
from txgraph.pipeline import Pipeline
from txgraph.rewrite import NearMiss, PassContext, Rewrite, explain_pass

_SHOWN = 10
_NEAREST = 3


@dataclass(frozen=True)
class Explanation:
    """Where one pass rewrites a graph, and where it nearly does.

    Attributes:
        name: of the pass.
        rewrites: the places that it rewrites.
        near_misses: the others that it looked at, nearest first, each with the first condition that fails.
    """

    name: str
    rewrites: tuple[Rewrite, ...]
    near_misses: tuple[NearMiss, ...]

    def __str__(self) -> str:
        lines = [f"{self.name}: {len(self.rewrites)} rewrites, {len(self.near_misses)} near misses"]
        lines += [f"  rewritten  {_place(r.module, r.location)}: {', '.join(r.removed)}" for r in self.rewrites]
        for m in self.near_misses[:_SHOWN]:
            lines.append(f"  missed     {_place(m.module, m.location)}: {m.reason} [{m.node.partition(' in ')[0]}]")
        if len(self.near_misses) > _SHOWN:
            lines.append(f"  and {len(self.near_misses) - _SHOWN} more, further away")
        return "\n".join(lines)


def explain(
    pipeline: Pipeline, graph: Graph, context: PassContext, name: str, skip: Collection[str] = ()
) -> Explanation:
    """Run ``pipeline`` again up to the pass ``name`` (each of that name) and watch it; ``graph`` is not changed.

    Passes named in ``skip`` are left out: those whose result was rolled back.

    Raises:
        ValueError: no pass of that name is in the pipeline; the names are listed.
    """
    last = len(pipeline) - 1 - pipeline.names[::-1].index(name) if name in pipeline.names else pipeline.index(name)
    return explain_each(Pipeline(tuple(pipeline)[: last + 1]), graph, context, skip, only=name)[name]


def explain_each(
    pipeline: Pipeline, graph: Graph, context: PassContext, skip: Collection[str] = (), only: str | None = None
) -> dict[str, Explanation]:
    """Run ``pipeline`` again and watch its passes, or those named ``only``; ``graph`` is not changed.

    Of passes of one name all rewrites count, and the near misses of the last. Those named in ``skip`` change nothing.
    """
    found: dict[str, Explanation] = {}
    for each in pipeline:
        if only in (None, each.name):
            rewrites, misses = explain_pass(each, graph, context)
            before = found[each.name].rewrites if each.name in found else ()
            found[each.name] = Explanation(each.name, (*before, *rewrites), tuple(misses))
        if each.name not in skip:
            graph, _ = Pipeline((each,)).run(graph, context)
    return found


def nearest_misses(explanations: Iterable[Explanation]) -> list[NearMiss]:
    """Of each pass all places where its whole pattern fitted, else the few nearest."""
    found: list[NearMiss] = []
    for each in explanations:
        complete = [miss for miss in each.near_misses if miss.complete]
        found += complete or each.near_misses[:_NEAREST]
    return found


def unfused(pipeline: Pipeline, graph: Graph, context: PassContext) -> list[NearMiss]:
    """Where the whole pattern of a fusion fits the graph that the passes made, and why it was rejected.

    Fusions are the passes that are named so, ``fuse-...``: of others a reader would hear that a view does change sizes.
    """
    fusions = {each.name: each for each in pipeline if each.name.startswith("fuse-")}
    return [miss for each in fusions.values() for miss in explain_pass(each, graph, context)[1] if miss.complete]


def _place(module: str, location: str) -> str:
    return " ".join(part for part in (module, f"({location})" if location else "") if part) or "(no source line)"
