"""How far a budget reaches on the path from exact to fast."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from txgraph.ir import Graph
from txgraph.lossy.budget import Budget
from txgraph.lossy.distance import Distance
from txgraph.lossy.path import Candidate, Step, state_after
from txgraph.lossy.spending import Point, Spent
from txgraph.lossy.subject import Subject
from txgraph.progress import say
from txgraph.rewrite import Place

AIM = 0.9  # of the budget, on the calls that choose: others differ


@dataclass
class Clock:
    """Says when the time for a search is over, and remembers what it was over in.

    Attributes:
        end, start: on the clock of ``time.perf_counter``.
    """

    end: float
    start: float = field(default_factory=lambda: time.perf_counter())
    cut: str = ""

    def is_over(self, what: str, share: float = 1.0) -> bool:
        """Whether a share of the time is over; of the first that asks then, ``what`` it did is remembered."""
        if time.perf_counter() < self.start + share * (self.end - self.start):
            return False
        self.cut = self.cut or what
        return True

    def leave(self, seconds: float) -> None:
        """Be over earlier, for what has to be done then; no more than half of the time."""
        self.end -= min(seconds, (self.end - self.start) / 2)


@dataclass
class Search:
    """How far a budget reaches on a path.

    Attributes:
        treated: gives the subject's graph after some steps. used: gives the share of the budget that a graph at some
            distance uses, and its score, if there is a metric.
        measured: relative errors by numbers of steps. breach: what was taken back at last.
    """

    budget: Budget
    subject: Subject
    steps: Sequence[Step]
    clock: Clock
    treated: Callable[[Sequence[Step]], Graph]
    used: Callable[[Distance, Graph], tuple[float, float | None]]
    score: float | None = None
    measured: dict[int, float] = field(default_factory=dict)
    breach: str = ""

    def farthest(self) -> int:
        """How many steps the budget allows, on few calls; more errors than predicted shorten it."""
        holds, broken = 0, len(self.steps) + 1
        guess = self._predicted(AIM)
        while broken - holds > 1 and not self.clock.is_over("the search along the path"):
            at = guess if holds < guess < broken else (holds + broken) // 2
            say("compress", f"{at} of {len(self.steps)} steps")
            treated = self.treated(self.steps[:at])
            distance = self.subject.distance(treated, self.subject.few, f"{at} of {len(self.steps)} steps")
            self.measured[at] = distance.relative_error
            used, _ = self.used(distance, treated)
            if used <= AIM:
                holds, guess = at, at + max(1, len(self.steps) // 16)
            else:
                broken, guess = at, at - max(1, len(self.steps) // 16)
        return holds

    def accepted(self, at: int) -> tuple[int, Distance, Distance, float]:
        """As many steps, or fewer, as all calls allow, those held out among them; with what they show."""
        while True:
            treated = self.treated(self.steps[:at])
            chosen_by = self.subject.distance(treated, self.subject.chosen_by, "all calls that choose")
            held_out = self.subject.distance(treated, self.subject.held_out, "calls held out")
            used, self.score = self.used(held_out, treated)
            worst = max(used, self.budget.used(held_out, elsewhere=True), self.budget.used(chosen_by))
            if worst <= 1 or at == 0:
                return at, chosen_by, held_out, used
            last = self.steps[at - 1].new
            self.breach = f"{worst:.2f} of the budget would be used on other calls; taken back: {last.module}"
            at = min(at - 1, self._reached(sum(step.error for step in self.steps[:at]) / worst**2))

    @property
    def predicts_all(self) -> bool:
        """Whether the errors of single rewrites predict that the budget reaches the end of the path."""
        return self._predicted(AIM) == len(self.steps)

    def _predicted(self, share: float) -> int:
        """How many steps the errors of single rewrites predict, where the budget is one of errors."""
        return self._reached((share * self.budget.largest_error) ** 2)

    def _reached(self, limit: float) -> int:
        total = 0.0
        for at, step in enumerate(self.steps):
            total += step.error
            if total > limit:
                return at
        return len(self.steps)

    def points(self, candidates: Sequence[Candidate]) -> tuple[Point, ...]:
        """The path, from exact on."""
        before: dict[Place, float] = {}
        for each in sorted(candidates, key=lambda each: len(each.place)):  # a place may lie within another
            if all(set(each.place).isdisjoint(place) for place in before):
                before[each.place] = each.before
        seconds, error = sum(before.values()), 0.0
        points = [Point(0, seconds, 0.0, self.measured.get(0))]
        for at, step in enumerate(self.steps, 1):
            seconds, error = seconds - step.seconds, error + step.error
            points.append(Point(at, seconds, error**0.5, self.measured.get(at)))
        return tuple(points)

    def stopped(self, at: int) -> str:
        """Why it went no further."""
        if self.clock.cut:
            return f"the time limit of {self.budget.seconds:g} s, in {self.clock.cut}"
        if self.breach:
            return self.breach
        if not self.steps:
            return "no lossy rewrite is faster here and within the budget"
        return "" if at == len(self.steps) else f"the next step would use more than {AIM:.0%} of the budget"


def spent_on(steps: Sequence[Step]) -> tuple[Spent, ...]:
    """What the budget is spent on after these steps."""
    state = state_after(steps)
    total = sum(each.error for each in state.values())
    return tuple(
        Spent(
            each.module,
            each.each.label,
            each.before,
            each.after,
            each.error**0.5,
            each.error / total if total else 0.0,
        )
        for each in state.values()
    )
