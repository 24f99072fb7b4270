"""Find repeated layers by their structure.

The copies of a region form a loop, ``hidden = layer(hidden, shared, own)``: each takes its hidden state from the copy
before it, and all else from outside of the loop. Three steps find them:

1. The longest ways through the graph are laid out as paths. Layers stand on a path one after the other, so its
   operators repeat themselves.
2. The path is cut once a period, where the fewest values cross. A copy is what its cut needs and the cut before it
   does not.
3. The copies are compared node by node, backwards from their cuts. This decides; the path is only a hint.

The names of nodes, modules and constants, and the values of constants, play no part.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from heapq import heapify, heappop, heappush

from txgraph.ir.graph import Graph
from txgraph.ir.regions.copies import Copies, equal_copies, rank
from txgraph.ir.regions.flow import Column, Flow
from txgraph.ir.regions.path import Path, Stretch, longest_ways
from txgraph.ir.regions.region import Region


def find_regions(graph: Graph) -> tuple[Region, ...]:
    """The repeated layers of a graph, in its order.

    Regions are disjoint, and a copy has at least two operators. Of several ways to see a repetition the one is taken
    that leaves the fewest nodes to look at: as many copies of the whole layer as there are. Layers that alternate
    are copies of the period.
    """
    flow = Flow(graph)
    found: list[Copies] = []
    for nodes in longest_ways(flow):
        found += _take_regions(Path(flow, nodes))
    found.sort(key=lambda copies: copies.roles[0])
    return tuple(_region(flow, copies) for copies in found if len(copies.roles) > 1)


def _region(flow: Flow, copies: Copies) -> Region:
    members = [set(copy) for copy in zip(*copies.roles, strict=True)]
    used_outside = [
        role
        for role in copies.roles
        if not all(own.issuperset(flow.users[n]) for n, own in zip(role, members, strict=True))
    ]

    def names(columns: Sequence[Column]) -> tuple[tuple[str, ...], ...]:
        return tuple(tuple(flow.nodes[column[k]].name for column in columns) for k in range(copies.count))

    return Region(names(copies.roles), names(copies.inputs), names(used_outside))


def _take_regions(path: Path) -> list[Copies]:
    """The regions on a path, always the best of what is left; their nodes are taken."""
    found = []
    size = len(path.nodes)
    stretches = [s for period in range(1, size) for s in path.stretches(period, 0, size)]
    longest_first = [(-stretch.length, stretch) for stretch in stretches]
    heapify(longest_first)
    while longest_first:
        best, saved, again = list[Copies](), 0, []
        while longest_first and -longest_first[0][0] > saved:  # a shorter one has no more to give
            _, stretch = heappop(longest_first)
            left = path.stretches(stretch.period, stretch.start, stretch.start + stretch.length + stretch.period)
            if left != [stretch]:  # a region took a part of it
                for part in left:
                    heappush(longest_first, (-part.length, part))
            elif regions := min(_regions(path, stretch), key=rank, default=[]):
                again.append(stretch)
                if not best or rank(regions) < rank(best):
                    best, saved = regions, stretch.period * sum(each.count - 1 for each in regions)
        found += best
        path.take({n for copies in best for role in copies.roles for n in role})
        for stretch in again:
            heappush(longest_first, (-stretch.length, stretch))
    return found


def _regions(path: Path, stretch: Stretch) -> Iterator[list[Copies]]:
    """The copies on a stretch, for each good cut."""
    period, start, _ = stretch
    for cut in path.cuts(stretch):
        yield list(equal_copies(path, range(start + (cut - start) % period, cut + period + 1, period)))
