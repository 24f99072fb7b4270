"""Spends a budget: lossy rewrites chosen jointly, by measured time and measured error.

1. Each lossy pass rewrites the exact graph wherever it can. For each rewrite by itself: how much it changes the outputs
   over the calibration (:mod:`txgraph.lossy.sensitivity`), and how much time it saves on the graph that will run.
2. The best steps make one path from exact to fast (:mod:`txgraph.lossy.path`).
3. How far the budget reaches on it is found by running the model so rewritten: what single rewrites do does not quite
   add up.
4. It is accepted on calls that chose nothing. On a breach the step that is worth least is taken back.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from txgraph.backends import Backend, Compiled
from txgraph.cache import is_on
from txgraph.candidates import Running, Singles, run_method
from txgraph.errors import TxgraphError
from txgraph.ir import Graph
from txgraph.lossy.budget import Budget
from txgraph.lossy.calibration import Calibration
from txgraph.lossy.distance import Distance
from txgraph.lossy.findings import Findings, graph_text
from txgraph.lossy.parts import parts_of
from txgraph.lossy.path import Step, path_of, state_after
from txgraph.lossy.search import Clock, Search, spent_on
from txgraph.lossy.spending import Spending
from txgraph.lossy.subject import Subject
from txgraph.measure import RewriteTimer
from txgraph.options import BackendOptions, CompileOptions, Target, VerifyLevel
from txgraph.passes import for_every_call, lossy_methods
from txgraph.pipeline import PassRecord, Pipeline
from txgraph.progress import say
from txgraph.rewrite import LossyContext, LossyPass, PassContext, Place

log = logging.getLogger(__name__)

Run = Callable[[Sequence[torch.Tensor]], Sequence[Any]]


@dataclass
class Compression:
    """Spends a budget on the graphs of one model.

    Attributes:
        methods: the lossy passes to choose from. forced: wherever they fit, also where they save no time.
        pipeline: the exact passes that are right for every call.
    """

    model: nn.Module
    calibration: Calibration
    budget: Budget
    methods: Sequence[LossyPass]
    forced: bool
    pipeline: Pipeline
    level: VerifyLevel
    _subject: Subject | None = None
    _lossy: LossyContext = field(default_factory=LossyContext)
    _findings: Findings = field(default_factory=Findings)
    _score: float | None = None
    _slower: bool = False

    def forget(self) -> None:
        """The model has changed: what was found of it does not hold."""
        self._subject, self._score = None, None
        self._lossy = LossyContext()
        self._findings = Findings()

    def spend(
        self,
        graph: Graph,
        context: PassContext,
        backend: Backend,
        target: Target,
        options: BackendOptions,
        most: int | None = None,
    ) -> tuple[Graph, list[PassRecord], Spending]:
        """What becomes of an exact graph under the budget; the graph itself is not changed.

        Args:
            most: so many steps along the path, no more.

        Raises:
            ValueError: the budget cannot be kept even by the exact graph, or the calibration does not fit.
            TxgraphError: the metric raises.
        """
        started = time.perf_counter()
        clock = Clock(started + self.budget.seconds)
        if self._subject is None:
            say("compress", "capture for the calibration")
            plain = replace(context, inputs={}, vetoes={}, near_misses=None, advice=[])
            self._subject = Subject.of(self.model, self.calibration, self.budget.seed, self.pipeline, plain, self.level)
            self._lossy = LossyContext(observe=self._subject.observe)
            if options.cache and is_on():
                self._findings = Findings.of(self._subject.graph, self.calibration.digest, str(self.budget.seed))
        subject, held = self._subject, {*self._lossy.prepared}
        asked = time.perf_counter()
        self._check_reachable(subject)
        calls = len(subject.chosen_by) + len(subject.held_out)
        clock.leave((time.perf_counter() - asked) * calls / len(subject.few))  # all of them accept what is found
        notes = list(subject.notes)
        timer = RewriteTimer(backend, target, options, True)
        running = Running(graph, context, timer, graph_text(graph, backend.name, backend.settings, target, options))
        largest = self.budget.largest_error**2
        singles = Singles(self.methods, self.forced, largest, subject, self._lossy, self._findings, clock)
        self._slower = self._slower and most is not None  # else the steps would be others
        candidates, complete = singles.candidates(running, self._slower)
        if self._findings.reused:
            notes.append(f"{self._findings.reused} errors and times are those that an earlier search found")
        lower = partial(backend.lower, target=target, options=options)
        wrong: dict[tuple[LossyPass, Place], str] = {}
        while True:
            candidates = [each for each in candidates if (each.each, each.place) not in wrong]
            steps = path_of(candidates, self.forced, largest)[:most]
            search = Search(self.budget, subject, steps, clock, self.treated, self.used)
            complete = complete or most is not None or clock.is_over("what is fastest")
            if complete or search.predicts_all:
                at, chosen_by, held_out, used = search.accepted(search.farthest())
                found = self._wrong_parts(subject, steps[:at], lower)
                if not found and (complete or at == len(steps)):
                    break
                wrong |= found
            if not complete:  # the budget does not reach the end of the path: what is slower may be more exact
                self._slower = True
                candidates, complete = singles.candidates(running, slower=True)
        notes += wrong.values()
        applied, records = self._apply(graph, context, steps[:at])
        self._lossy.give_back({t.data_ptr() for t in applied.constants.values()}, held)
        subject.forget_observed()
        spending = Spending(
            self.budget,
            used,
            chosen_by,
            held_out,
            (len(subject.chosen_by), len(subject.held_out)),
            spent_on(steps[:at]),
            search.points(candidates),
            at,
            search.score,
            self._score,
            search.stopped(at),
            time.perf_counter() - started,
            tuple(dict.fromkeys(notes)),
        )
        return applied, records, spending

    def confirm(
        self,
        spending: Spending,
        run: Run,
        structure: tuple[Any, ...],
        accepts: Callable[[Sequence[torch.Tensor]], bool],
    ) -> tuple[Spending, bool]:
        """What was compiled, on those held-out calls that it takes: whether it keeps the budget, and a note of it.

        Args:
            run: gives all outputs of the compiled graph. structure: of the calls it is for.
            accepts: whether it takes one, by its tensors.
        """
        assert self._subject is not None, "spend comes first"
        same = structure == self._subject.structure  # a step of generation takes other calls
        calls = [tensors for tensors in self._subject.held_out if same and accepts(tensors)]
        distance = Distance()
        for tensors in calls:
            distance = distance.plus(run(tensors), self._subject.truth(tensors))
        note = f"compiled, on {len(calls)} of the {len(self._subject.held_out)} calls held out: {distance}"
        if not calls:
            note = "no call that was held out has the sizes that were compiled for: judged by the interpreted graph"
        return replace(spending, notes=(*spending.notes, note)), self.budget.used(distance) <= 1

    def _wrong_parts(
        self, subject: Subject, steps: Sequence[Step], lower: Callable[[Graph], Compiled]
    ) -> dict[tuple[LossyPass, Place], str]:
        """The rewrites whose compiled form is not what they say, each by itself on what flows into it; and why.

        The outputs of the whole say little of that: where values are rounded to few bits, a last bit of a float decides
        now and then which of two neighbours it is, and layer upon layer that adds up.
        """
        if self.level == "off":
            return {}
        wrong: dict[tuple[LossyPass, Place], str] = {}
        graph = subject.graph
        verdicts: dict[str, str] = {}
        for method, chosen in self._by_method(steps):
            result = run_method(method, graph, subject.context, self._lossy, chosen)
            nodes, places = {node.name: node for node in graph.nodes}, method.places(graph, self._lossy)
            for part in parts_of(result, subject.few[0]):
                if part.kind not in verdicts:
                    say("compress", f"check {method.label}: {part.rewrite.module or part.rewrite.root}")
                    verdicts[part.kind] = part.reason(lower(part.graph).run)
                if verdicts[part.kind]:
                    text = f"{method.label} is left out of {method.module_of(nodes[part.rewrite.root])}"
                    wrong[method, places[part.rewrite.root]] = (
                        f"{text}: as compiled it breaks a gate, {verdicts[part.kind]}"
                    )
            graph = result.after
        return wrong

    def _by_method(self, steps: Sequence[Step]) -> Iterator[tuple[LossyPass, set[tuple[LossyPass, Place]]]]:
        """The methods in their order, each with what of it these steps choose."""
        state = state_after(steps)
        for method in self.methods:
            chosen = {(each.each, place) for place, each in state.items() if each.each == method}
            if chosen:
                yield method, chosen

    def used(self, distance: Distance, treated: Graph | None = None) -> tuple[float, float | None]:
        """The share of the budget that a graph at this distance uses, and its score where there is a metric."""
        used = self.budget.used(distance)
        if self.budget.metric is None or used > 1:
            return used, None
        assert self._subject is not None, "spend comes first"
        if self._score is None:
            self._score = self._scored(self.model)
        score = self._scored(self._subject.as_model(treated or self._subject.graph))
        return max(used, self.budget.used_by_score(score, self._score)), score

    def treated(self, steps: Sequence[Step]) -> Graph:
        """The subject's graph after these steps."""
        assert self._subject is not None, "spend comes first"
        return self._apply(self._subject.graph, self._subject.context, steps)[0]

    def _scored(self, model: nn.Module) -> float:
        metric = self.budget.metric
        assert metric is not None, "asked before"
        try:
            score = float(metric(model))
        except Exception as error:  # the user's own code, which may raise anything
            raise TxgraphError(
                f"the budget's metric raised {type(error).__name__}: {error}. It is called with the model, and with "
                f"candidates that take the same calls as the batches of the calibration"
            ) from error
        if score != score:
            raise TxgraphError("the budget's metric gave NaN")
        return score

    def _check_reachable(self, subject: Subject) -> None:
        distance = subject.distance(subject.graph, subject.few, "exact")
        used, _ = self.used(distance)
        if used > 1:
            raise ValueError(
                f"{self.budget} cannot be kept: without any lossy rewrite the model is already at {distance} from "
                f"float64. The smallest relative_error that can be reached is about {distance.relative_error:.1e}"
            )

    def _apply(self, graph: Graph, context: PassContext, steps: Sequence[Step]) -> tuple[Graph, list[PassRecord]]:
        """The graph after these steps, by one run of each method."""
        records = []
        for method, chosen in self._by_method(steps):
            started = time.perf_counter()
            result = run_method(method, graph, context, self._lossy, chosen)
            graph = result.after
            records.append(
                PassRecord(method.name, "applied", result.rewrites, time.perf_counter() - started, lossy=method.label)
            )
        return graph, records


def compression_of(model: nn.Module, pipeline: Pipeline, options: CompileOptions) -> Compression | None:
    """What spends the budget that was asked for, if one was: on the pipeline's lossy passes, or on all there are."""
    if options.budget is None or options.calibration is None:
        return None
    exact, own = for_every_call(pipeline.exact), pipeline.lossy
    return Compression(
        model, options.calibration, options.budget, own or lossy_methods(), bool(own), exact, options.verify
    )
