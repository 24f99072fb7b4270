"""The path from exact to fast."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

import pytest

from txgraph.lossy.path import Candidate, on_one_scale, path_of, state_after
from txgraph.passes.low_rank.low_rank import LowRank
from txgraph.passes.precision.int8 import Int8

A, B = Int8(), LowRank(rank=4)


def candidate(place: str, error: float, after: float, each: Int8 | LowRank = A, before: float = 10.0) -> Candidate:
    return Candidate(each, tuple(place.split()), place, error, before, after)


def test_the_best_worth_comes_first() -> None:
    steps = path_of([candidate("a", 4.0, 2.0), candidate("b", 1.0, 5.0), candidate("c", 0.0, 9.0)])
    assert [step.new.module for step in steps] == ["c", "b", "a"]  # free, then 5 a unit, then 2


def test_only_the_hull_is_walked() -> None:
    """Of three candidates the middle one is dominated: half of the gain for more than half of the error."""
    steps = path_of([candidate("a", 1.0, 6.0), candidate("a", 3.0, 5.0, B), candidate("a", 4.0, 1.0)])
    assert [(step.error, step.seconds) for step in steps] == [(1.0, 4.0), (3.0, 5.0)]
    assert steps[1].old is steps[0].new


def test_what_a_place_takes_now_is_one_time() -> None:
    """The second was measured while the machine was three times slower: it halves the time, as the first does not."""
    first, second = candidate("a", 2.0, 6.0), candidate("a", 1.0, 15.0, B, before=30.0)
    other = candidate("b", 1.0, 1.0, before=2.0)
    scaled = on_one_scale([first, second, other])
    assert scaled == [first, replace(second, before=10.0, after=5.0), other]
    assert [step.new for step in path_of(scaled)] == [scaled[1], other]
    assert len(path_of([first, second])) == 1  # 15 of 30 saved seem more than all of 10


def test_what_saves_no_time_is_left_out_unless_forced() -> None:
    slower = candidate("a", 1.0, 12.0)
    assert path_of([slower]) == []
    assert [step.new for step in path_of([slower], forced=True)] == [slower]
    assert path_of([candidate("a", float("inf"), 1.0)], forced=True) == []


def test_what_alone_is_too_much_does_not_end_the_path() -> None:
    """It would be worth most, and stand before all others."""
    much, little = candidate("a", 9.0, 1.0, before=1000.0), candidate("b", 1.0, 5.0)
    assert [step.new for step in path_of([much, little])] == [much, little]
    assert [step.new for step in path_of([much, little], largest=4.0)] == [little]
    assert [step.new for step in path_of([much, little], forced=True, largest=4.0)] == [little]


def test_a_weight_is_treated_once() -> None:
    both, one = candidate("a b", 1.0, 1.0), candidate("b", 1.0, 5.0)
    assert [step.new for step in path_of([both, one])] == [both]
    better = candidate("b", 0.1, 1.0)
    assert path_of([both, better, candidate("a", 9.0, 5.0)])[0].new is better
    assert all(step.new is not both for step in path_of([both, better]))


def test_what_is_done_to_two_places_at_once_comes_after_what_each_gains_alone() -> None:
    """Both in 8 bits save 14 of 20 for 2; fewer channels in 8 bits 17 for 10: 3 more for 8 more."""
    whole = candidate("a b", 10.0, 3.0, before=20.0)
    steps = path_of([whole, candidate("a", 1.0, 2.0), candidate("b", 1.0, 4.0)])
    assert [(step.new.module, step.error, step.seconds) for step in steps] == [
        ("a", 1.0, 8.0),
        ("b", 1.0, 6.0),
        ("a b", 8.0, 3.0),
    ]
    assert set(state_after(steps[:2])) == {("a",), ("b",)}
    assert state_after(steps) == {("a", "b"): whole}


def test_what_is_done_at_once_may_come_before_the_rest_of_it() -> None:
    """Then the rest is not done: it is in it."""
    whole = candidate("a b", 3.0, 2.0, before=20.0)
    steps = path_of([whole, candidate("a", 1.0, 2.0), candidate("b", 9.0, 4.0)])
    assert [step.new.module for step in steps] == ["a", "a b"]
    assert (steps[1].error, steps[1].seconds) == (2.0, 10.0)
    assert path_of([whole, candidate("b c", 1.0, 9.9)])[0].new is whole  # neither within the other: the better one
    assert len(path_of([whole, candidate("b c", 1.0, 9.9)])) == 1


def test_the_last_step_of_a_place_stands() -> None:
    steps = path_of([candidate("a", 1.0, 6.0), candidate("a", 4.0, 1.0, B), candidate("b", 2.0, 9.0)])
    assert {place: each.after for place, each in state_after(steps).items()} == {("a",): 1.0, ("b",): 9.0}
    assert state_after(steps[:1])[("a",)].after == 6.0


@pytest.mark.parametrize("seed", range(20))
def test_a_larger_budget_is_never_slower_and_steps_lose_worth(seed: int) -> None:
    chance = random.Random(seed)
    group = [candidate(place, chance.random(), 10 * chance.random(), each) for place in "abcde" for each in (A, B)]
    group += [candidate(place, 2 * chance.random(), 20 * chance.random(), B, 20.0) for place in ("a b", "c d")]
    steps = path_of(group)
    worths = [step.worth for step in steps]
    assert worths == sorted(worths, reverse=True)
    assert all(step.seconds > 0 and step.error >= 0 for step in steps)


@pytest.mark.parametrize("seed", range(10))
def test_no_choice_beats_the_path_where_it_stands(seed: int) -> None:
    """Against all choices there are: none has less error and more gain than a state on the path."""
    chance = random.Random(seed)
    places = {
        place: [candidate(place, chance.random(), 10 * chance.random(), each) for each in (A, B)] for place in "abc"
    }
    steps = path_of([each for group in places.values() for each in group])
    for at in range(len(steps) + 1):
        state = state_after(steps[:at]).values()
        error, gain = sum(each.error for each in state), sum(each.gain for each in state)
        for choice in itertools.product(*([None, *group] for group in places.values())):
            taken = [each for each in choice if each is not None]
            if sum(each.error for each in taken) < error - 1e-12:
                assert sum(each.gain for each in taken) <= gain + 1e-12
