"""From exact to fast, step by step: which rewrite gains most time for what it costs in error.

Errors of rewrites at different places are about independent, so that their squares add up. For each place, of the
candidates only those on the lower convex hull of seconds over squared error can be part of a best choice under any
budget. Their steps, sorted by seconds gained per squared error, make one path for all budgets: a larger budget goes
further on it, and is never slower.

source: Sinha and Zoltners 1979, "The multiple-choice knapsack problem": the greedy of its linear relaxation
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from txgraph.rewrite import LossyPass, Place


@dataclass(frozen=True)
class Candidate:
    """One lossy rewrite at one place.

    Attributes:
        module: where it is, for people.
        error: ``||y - y'||^2 / ||y||^2`` if it is made alone.
        before, after: measured seconds of what it replaces, and of what it makes, over all copies of the place.
    """

    each: LossyPass
    place: Place
    module: str
    error: float
    before: float
    after: float

    @property
    def gain(self) -> float:
        """Seconds saved."""
        return self.before - self.after


@dataclass(frozen=True)
class Step:
    """From one state of a place to the next: ``None`` is the exact one.

    Attributes:
        error, seconds: what it adds to the squared error, and saves.
    """

    old: Candidate | None
    new: Candidate
    error: float
    seconds: float

    @property
    def worth(self) -> float:
        """Seconds saved for the squared error."""
        return self.seconds / self.error if self.error > 0 else float("inf")


def on_one_scale(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The same, with one time for what a place is now: the least that was measured.

    Each candidate was measured in turn with what it replaces, but not in turn with the other candidates: how long the
    same operators take differs from one measurement to the next, more than two candidates do. Ratios do not.
    """
    least: dict[Place, float] = {}
    for each in candidates:
        least[each.place] = min(each.before, least.get(each.place, each.before))
    return [replace(c, before=least[c.place], after=c.after * least[c.place] / c.before) for c in candidates]


def path_of(candidates: Sequence[Candidate], forced: bool = False, largest: float = float("inf")) -> list[Step]:
    """All steps that may pay, the best first.

    Args:
        largest: squared error of a candidate alone that is too much: it would end the path for all after it.
        forced: also those that save no time; of each place the one with the smallest error.
    """
    by_place: dict[Place, list[Candidate]] = {}
    for candidate in candidates:
        if candidate.error <= largest and candidate.error < float("inf"):
            by_place.setdefault(candidate.place, []).append(candidate)
    steps: list[Step] = []
    for group in by_place.values():
        found = _hull(group)
        if forced and not found:
            best = min(group, key=lambda each: each.error)
            found = [Step(None, best, best.error, best.gain)]
        steps += found
    taken: dict[str, Place] = {}  # each weight is treated once: by what is worth most
    path = []
    for step in sorted(steps, key=lambda step: -step.worth):  # stable: equal inputs, equal paths
        place = step.new.place
        if all(taken.get(weight, place) == place for weight in place):
            taken |= dict.fromkeys(place, place)
            path.append(step)
    return path


def state_after(steps: Sequence[Step]) -> Mapping[Place, Candidate]:
    """What stands at each place after these steps."""
    state: dict[Place, Candidate] = {}
    for step in steps:
        state[step.new.place] = step.new
    return state


def _hull(group: Sequence[Candidate]) -> list[Step]:
    """The steps along the lower hull, whose worth falls: from the exact state, at error 0 and gain 0."""
    steps: list[Step] = []
    current: Candidate | None = None
    error, gain = 0.0, 0.0
    rest = list(group)
    while True:
        rest = [each for each in rest if each.gain > gain]
        if not rest:
            return steps

        def worth(each: Candidate, error: float = error, gain: float = gain) -> tuple[float, float]:
            added = each.error - error
            return ((each.gain - gain) / added if added > 0 else float("inf"), each.gain)

        best = max(rest, key=worth)
        steps.append(Step(current, best, max(best.error - error, 0.0), best.gain - gain))
        current, error, gain = best, max(best.error, error), best.gain
