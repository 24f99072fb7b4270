"""What single lossy rewrites of a model change, and what they save: the candidates of a search.

The error of a rewrite is that of the subject's outputs over the calibration, where it is made alone; its seconds are
measured on the graph that will run, in turn with what it replaces. Both are kept: see :mod:`txgraph.lossy.findings`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.fx import Node

from txgraph.cost import BUSY, CoreClock
from txgraph.ir import Graph, arguments, check_spec, interpret
from txgraph.lossy.findings import Findings, named
from txgraph.lossy.path import Candidate, on_one_scale
from txgraph.lossy.search import Clock
from txgraph.lossy.sensitivity import probes, squared_errors
from txgraph.lossy.subject import Subject
from txgraph.measure import RewriteTimer
from txgraph.pipeline import PassResult
from txgraph.progress import say
from txgraph.rewrite import LossyContext, LossyPass, PassContext, Place

LOOKING, ERRORS, TIMES = 0.4, 0.8, 0.9  # of the time for a search, by when each is over: the next has to use it
AT_ONCE = 8  # places that are prepared before the first of them is tried: what time allows is known of some


def run_method(
    method: LossyPass,
    graph: Graph,
    context: PassContext,
    lossy: LossyContext,
    chosen: Collection[tuple[LossyPass, Place]],
) -> PassResult:
    """What a lossy pass makes of a graph at the places that are chosen; the graph itself is not changed."""
    after = graph.copy()
    context = replace(context, lossy=replace(lossy, chosen=frozenset(chosen)))
    rewrites = method.run(after, context)
    after.eliminate_dead_code()
    check_spec(after, graph)
    return PassResult(method, graph, after, tuple(rewrites), context)


@dataclass(frozen=True)
class Running:
    """The graph that will run, and how its rewrites are timed; ``text``: all that these times depend on."""

    graph: Graph
    context: PassContext
    timer: RewriteTimer
    text: str


@dataclass(frozen=True)
class Singles:
    """Single rewrites of one model by some methods.

    Attributes:
        forced: those that save no time count, too. largest: squared error that is too much for one of them.
        lossy: what the methods prepare. findings: what is known already, and what becomes known.
    """

    methods: Sequence[LossyPass]
    forced: bool
    largest: float
    subject: Subject
    lossy: LossyContext
    findings: Findings
    clock: Clock

    def candidates(self, running: Running, slower: bool = False) -> tuple[list[Candidate], bool]:
        """What could be done to the graph that will run, with error and seconds.

        Args:
            slower: also what another method does faster at that place, where shapes tell; else only where the
                fastest is too much for the budget by itself.

        Returns:
            them, and whether these are all that there are
        """
        wanted, ranked = self._promising(running)
        rank, left = 0, list(ranked)
        while left:
            for place in left:
                wanted[ranked[place][rank]].add(place)
            if not slower:
                self._measure_errors(wanted)
            left = [p for p in left if slower or not self._fits(ranked[p][rank], p)]
            rank += 1
            left = [p for p in left if rank < len(ranked[p])]
        self._measure_errors(wanted)
        complete = all(place in wanted[methods[-1]] for place, methods in ranked.items())
        return on_one_scale(self._timed(running, wanted)), complete

    def _promising(self, running: Running) -> tuple[dict[LossyPass, set[Place]], dict[Place, list[LossyPass]]]:
        """Where each method may save time: of places that are alike one is tried, where shapes tell.

        Returns:
            places of the other methods; at each place the methods where shapes tell, the fastest first
        """
        found: dict[LossyPass, set[Place]] = {}
        shares: dict[Place, dict[LossyPass, float]] = {}
        graph = running.graph
        nodes = {node.name: node for node in graph.nodes}
        for method in self.methods:
            found[method] = set()
            if self.clock.cut:
                continue
            roots: dict[str, dict[Node, Place]] = {}
            for root, place in method.places(graph, self.lossy).items():
                roots.setdefault(method.shape_of(graph, nodes[root]), {})[nodes[root]] = place
            for alike in roots.values():
                first, place = next(iter(alike.items()))
                if self.forced or not method.by_shape:
                    found[method].update(alike.values())
                else:
                    share = self._share(method, first, place, running)
                    for each in alike.values() if share < 1 else ():
                        shares.setdefault(each, {})[method] = share
                if self.clock.is_over("looking for what is faster", LOOKING):
                    break
        return found, {each: sorted(taken, key=taken.__getitem__) for each, taken in shares.items()}  # stable

    def _share(self, method: LossyPass, root: Node, place: Place, running: Running) -> float:
        """The least share of its time that a draft leaves there; 1 where it cannot be done."""
        what = f"share {running.text} {named(method, place)}"
        known = self.findings.find(what)
        if known is not None:
            return known["share"]
        say("compress", f"{method.label}: is it faster for {method.module_of(root)}")
        result = run_method(method, running.graph, running.context, self._drafts, {(method, place)})
        watch = CoreClock()
        times = [measured for _, measured in running.timer.times(result)]
        share = min((each.after / each.before for each in times if each.before), default=1.0)
        self.findings.keep(what, for_others=_is_quiet(watch), share=share)
        return share

    @property
    def _drafts(self) -> LossyContext:
        """For rewrites of which only the time matters."""
        return replace(self.lossy, observe=None, prepared={}, draft=True)

    def _prepare(self, method: LossyPass, places: Collection[Place]) -> PassResult:
        """By what flows in the subject: in the graph that will run it may be packed, or of other sizes."""
        chosen = {(method, place) for place in places}
        return run_method(method, self.subject.graph, self.subject.context, self.lossy, chosen)

    def _measure_errors(self, wanted: Mapping[LossyPass, set[Place]]) -> None:
        """The error of each rewrite by itself, on the subject."""
        graph = self.subject.graph
        nodes = {node.name: node for node in graph.nodes}
        for method, places in wanted.items():
            unknown = {place for place in places if self._error(method, place) is None}
            unknown -= {place for place in unknown if self._is_hopeless(method, place)}
            roots = method.places(graph, self.lossy)
            inorder = [place for place in dict.fromkeys(roots.values()) if place in unknown]
            for first in range(0, len(inorder), AT_ONCE):
                if self.clock.is_over("errors of single rewrites", ERRORS):
                    return
                some = inorder[first : first + AT_ONCE]
                say("compress", f"{method.label}: prepare", first, len(inorder))
                result = self._prepare(method, some)
                rewrites = result.rewrites
                left = Counter(roots[rewrite.root] for rewrite in rewrites)  # a weight may be used twice
                for place in some:
                    if place not in left:  # it cannot be done there
                        self.findings.keep(f"error {named(method, place)}", error=math.inf)
                sums: dict[Place, float] = {}
                errors = squared_errors(graph, probes(graph, result.after, rewrites), self.subject.fewest)
                for number, (rewrite, error) in enumerate(zip(rewrites, errors, strict=True), 1):
                    place = roots[rewrite.root]
                    sums[place] = sums.get(place, 0.0) + error
                    left[place] -= 1
                    if not left[place]:
                        self.findings.keep(f"error {named(method, place)}", error=sums[place])
                    what = f"{method.label}: {method.module_of(nodes[rewrite.root])}"
                    say("compress", what, first + number, len(inorder))
                    if self.clock.is_over("errors of single rewrites", ERRORS):
                        return

    def _is_hopeless(self, method: LossyPass, place: Place) -> bool:
        """Whether that is known from what others change there: a search asks for little that it cannot use."""
        if any(self._error(other, place) == math.inf for other in self.methods if method.fails_with(other)):
            return True
        return any((self._error(part, place) or 0.0) > self.largest for part in method.parts[:1])

    def _error(self, method: LossyPass, place: Place) -> float | None:
        """The squared error of a method at a place alone, if it was measured."""
        known = self.findings.find(f"error {named(method, place)}")
        return None if known is None else known["error"]

    def _fits(self, method: LossyPass, place: Place) -> bool:
        error = self._error(method, place)
        return error is not None and error <= self.largest

    def _timed(self, running: Running, wanted: Mapping[LossyPass, set[Place]]) -> list[Candidate]:
        """Those whose errors are known, with their seconds."""
        found: list[Candidate] = []
        graph = running.graph
        nodes = {node.name: node for node in graph.nodes}
        for method in self.methods:
            places = method.places(graph, self.lossy)
            known = {place: self._error(method, place) for place in wanted.get(method, ())}
            errors = {p: e for p, e in known.items() if e is not None and e <= self.largest and e < math.inf}
            text = {place: f"seconds {running.text} {named(method, place)}" for place in errors}
            new = {place for place in errors if not self.findings.find(text[place])}
            if new:
                lossy = self.lossy
                if any((method, place) not in lossy.prepared for place in new):
                    if method.by_shape:
                        lossy = self._drafts
                    else:
                        self._prepare(method, new)
                watch = CoreClock()
                chosen = {(method, place) for place in new}
                result = run_method(method, graph, running.context, lossy, chosen)
                seconds: dict[Place, tuple[float, float]] = {}
                left = Counter(places[rewrite.root] for rewrite in result.rewrites)
                for root, measured in running.timer.times(result, self._values(method, graph, new)):
                    before, after = seconds.get(places[root], (0.0, 0.0))
                    seconds[places[root]] = before + measured.before, after + measured.after
                    left[places[root]] -= 1
                    if self.clock.is_over("times of single rewrites", TIMES):
                        break
                for place, (before, after) in ((p, s) for p, s in seconds.items() if not left[p]):
                    self.findings.keep(text[place], for_others=_is_quiet(watch), before=before, after=after)
            modules = {place: method.module_of(nodes[root]) for root, place in reversed([*places.items()])}
            for place in dict.fromkeys(places.values()):
                times = self.findings.find(text[place]) if place in errors else None
                if times is not None:
                    before, after = times["before"], times["after"]
                    found.append(Candidate(method, place, modules[place], errors[place], before, after))
        return found

    def _values(self, method: LossyPass, graph: Graph, places: Collection[Place]) -> dict[str, dict[str, torch.Tensor]]:
        """By roots in a graph, the values that they take by their names, where the time of a method depends on them.

        They are those of a call of the subject, whose graph may have other sizes, and other names.
        """
        if not method.by_value:
            return {}
        mine = self.subject.graph
        taken = {place: _taken(mine, root) for root, place in method.places(mine, self.lossy).items()}
        wanted = {node.name for place in places for node in taken[place].values()}
        held: dict[str, torch.Tensor] = {}

        def hold(node: Node, value: Any) -> Any:
            if node.name in wanted:
                held[node.name] = value
            return value

        interpret(mine, self.subject.few[0], hold)
        return {
            root: {n.name: held[taken[place][a].name] for a, n in _taken(graph, root).items() if a in taken[place]}
            for root, place in method.places(graph, self.lossy).items()
            if place in places
        }


def _taken(graph: Graph, root: str) -> dict[str, Node]:
    """The nodes that a node takes, by the names of its arguments."""
    (node,) = (node for node in graph.nodes if node.name == root)
    return {name: each for name, each in arguments(node).items() if isinstance(each, Node)}


def _is_quiet(watch: CoreClock) -> bool:
    """Whether what was measured since then may be told to other processes."""
    return (watch.share() or 0.0) <= BUSY
