"""Find the rewrite that breaks a gate, by bisection."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from txgraph.rewrite import Rewrite


def culprit(rewrites: Sequence[Rewrite], breaks: Callable[[Collection[Rewrite]], bool]) -> Rewrite:
    """The rewrite with which a gate breaks for the first time.

    Args:
        rewrites: of one pass, which break a gate together, in the order in which they were made.
        breaks: whether a gate still breaks when these rewrites are left out; asked about log2 of their number times.
    """
    holds, broken = 0, len(rewrites)  # how many of the first ones are made
    while broken - holds > 1:
        middle = (holds + broken) // 2
        if breaks(rewrites[middle:]):
            broken = middle
        else:
            holds = middle
    return rewrites[broken - 1]
