"""Ways through the graph, on which layers stand one after the other."""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from txgraph.ir.regions.flow import Flow


def longest_ways(flow: Flow) -> list[list[int]]:
    """Paths on which every operator stands once, the longest first.

    An operator follows its deepest argument, and of the users that would follow it the one that leads farthest does.
    """
    size = len(flow.nodes)
    before, depth = [-1] * size, [0] * size
    after, height = [-1] * size, [0] * size
    calls = [n for n in range(size) if flow.is_call(n)]
    for n in calls:
        before[n] = max(filter(flow.is_call, flow.arguments[n]), key=depth.__getitem__, default=-1)
        depth[n] = 1 + (depth[before[n]] if before[n] >= 0 else 0)
    for n in reversed(calls):
        if before[n] >= 0 and height[n] >= height[before[n]]:
            after[before[n]], height[before[n]] = n, height[n] + 1
    paths = []
    for n in calls:
        if before[n] < 0 or after[before[n]] != n:
            path = [n]
            while after[path[-1]] >= 0:
                path.append(after[path[-1]])
            paths.append(path)
    return sorted(paths, key=len, reverse=True)


class Stretch(NamedTuple):
    """A part of a path that comes again one period later, as far as labels say."""

    period: int
    start: int
    length: int


class Path:
    """A way through the graph, on which layers stand one after the other."""

    def __init__(self, flow: Flow, nodes: list[int]) -> None:
        self.flow = flow
        self.nodes = nodes
        self._labels = np.array([-1 - place if n in flow.taken else flow.labels[n] for place, n in enumerate(nodes)])

    @cached_property
    def needed(self) -> list[int]:
        """For each node of the graph the first place on the path that needs it; past the end if there is none."""
        needed = [len(self.nodes)] * len(self.flow.nodes)
        for place, end in enumerate(self.nodes):
            pending = [end]
            while pending:
                n = pending.pop()
                if needed[n] > place:
                    needed[n] = place
                    pending += self.flow.arguments[n]
        return needed

    @cached_property
    def reached(self) -> list[int]:
        """For each node of the graph the last place on the path that it needs; -1 if there is none."""
        reached = [-1] * len(self.flow.nodes)
        for place, n in enumerate(self.nodes):
            reached[n] = place
        for n, sources in enumerate(self.flow.arguments):
            reached[n] = max([reached[n], *(reached[a] for a in sources)])
        return reached

    @cached_property
    def _lifetimes(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The places at which each value is first needed, and its last user is."""
        past, last = len(self.nodes), list(self.needed)
        for n, sources in enumerate(self.flow.arguments):
            for a in sources if self.needed[n] < past else ():
                last[a] = max(last[a], self.needed[n])
        return np.array(self.needed), np.array(last)

    def stretches(self, period: int, start: int, stop: int) -> list[Stretch]:
        """The stretches of a period in this part of the path.

        They may be shorter than the period: the path may have come to the first layer from the side.
        """
        labels = self._labels[start:stop]
        same = np.zeros(len(labels) - period + 2, dtype=np.int8)
        same[1:-1] = labels[period:] == labels[:-period]
        change = np.diff(same)
        runs = zip(np.flatnonzero(change > 0).tolist(), np.flatnonzero(change < 0).tolist(), strict=True)
        return [Stretch(period, start + a, b - a) for a, b in runs if 4 * (b - a) >= period]

    def cuts(self, stretch: Stretch) -> list[int]:
        """The places in the last period of a stretch where the fewest values go from one copy to the next."""
        period, start, length = stretch
        birth, death = self._lifetimes
        crossing = (birth < death) & (death - birth < period)  # what is used for longer is shared, such as a mask
        births = np.bincount(birth[crossing], minlength=len(self.nodes))
        deaths = np.bincount(death[crossing], minlength=len(self.nodes))
        last_period = max(start, start + length - period)
        width = np.cumsum(births - deaths)[last_period : start + length]
        cuts: list[int] = (last_period + np.flatnonzero(width == width.min())).tolist()
        return cuts

    def take(self, nodes: set[int]) -> None:
        """Leave out these nodes from now on: a region has them."""
        self.flow.taken |= nodes
        for place, n in enumerate(self.nodes):
            if n in self.flow.taken:
                self._labels[place] = -1 - place
