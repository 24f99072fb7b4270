"""Make a failing recipe as small as it can be."""

from __future__ import annotations

from collections.abc import Callable

from txgraph.fuzz.models import Recipe, simpler_recipes


def shrink(recipe: Recipe, fails: Callable[[Recipe], bool], most: int = 400) -> Recipe:
    """A recipe that still fails and of which nothing can be left out: a fixed point of single steps.

    Args:
        fails: whether a recipe still fails, asked ``most`` times at most.
    """
    asked = 0
    seen = {recipe}
    shrunk = True
    while shrunk:
        shrunk = False
        for simpler in simpler_recipes(recipe):
            if simpler in seen or asked >= most:
                continue
            seen.add(simpler)
            asked += 1
            if fails(simpler):
                recipe, shrunk = simpler, True
                break
    return recipe
