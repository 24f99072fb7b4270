"""From exact to fast, step by step: which rewrite gains most time for what it costs in error.

Errors of rewrites at different places are about independent, so that their squares add up. For each place, of the
candidates only those on the lower convex hull of seconds over squared error can be part of a best choice under any
budget. Their steps, sorted by seconds gained per squared error, make one path for all budgets: a larger budget goes
further on it, and is never slower.

source: Sinha and Zoltners 1979, "The multiple-choice knapsack problem": the greedy of its linear relaxation
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
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
    ranked: list[tuple[float, Place, Step]] = []
    for family, places in _families(by_place).items():
        inner = sorted((s for place in places for s in _walk((), by_place[place])), key=lambda step: -step.worth)
        found = _walk(inner, by_place[family])
        for place in (family, *places) if forced else ():
            if all(set(step.new.place).isdisjoint(place) for step in found):
                best = min(by_place[place], key=lambda each: each.error)
                found.append(Step(None, best, best.error, best.gain))
        least = float("inf")
        for step in found:  # each after those that it follows
            least = min(least, step.worth)
            ranked.append((least, family, step))
    taken: dict[str, Place] = {}  # each weight is treated in one family: by what is worth most
    path = []
    for _, family, step in sorted(ranked, key=lambda each: -each[0]):  # stable: equal inputs, equal paths
        if all(taken.get(weight, family) == family for weight in step.new.place):
            taken |= dict.fromkeys(step.new.place, family)
            path.append(step)
    return path


def state_after(steps: Sequence[Step]) -> Mapping[Place, Candidate]:
    """What stands at each place after these steps."""
    state: dict[Place, Candidate] = {}
    for step in steps:
        taken = set(step.new.place)
        state = {place: each for place, each in state.items() if place == step.new.place or taken.isdisjoint(place)}
        state[step.new.place] = step.new
    return state


def _families(places: Collection[Place]) -> dict[Place, list[Place]]:
    """Each place that no other contains, with those that it does; in their order."""
    families: dict[Place, list[Place]] = {}
    for place in sorted(places, key=len, reverse=True):  # stable
        outer = next((family for family in families if set(place) < set(family)), None)
        if outer is None:
            families[place] = []
        else:
            families[outer].append(place)
    return families


def _walk(inner: Sequence[Step], group: Sequence[Candidate]) -> list[Step]:
    """The steps along the lower hull, whose worth falls: from the exact state, at error 0 and gain 0.

    Args:
        inner: steps at places within this one, in their order. group: candidates for all of it, each instead of these.
    """
    steps: list[Step] = []
    within = list(inner)
    current: Candidate | None = None
    error, gain = 0.0, 0.0
    while True:
        choices = [Step(current, each, max(each.error - error, 0.0), each.gain - gain) for each in group]
        choices = [step for step in choices if step.seconds > 0]
        best = max(choices, key=lambda step: (step.worth, step.seconds), default=None)
        if current is None and within and (best is None or within[0].worth >= best.worth):
            best = within.pop(0)
            error, gain = error + best.error, gain + best.seconds
        elif best is not None:
            current, error, gain = best.new, max(best.new.error, error), best.new.gain
        else:
            return steps
        steps.append(best)
