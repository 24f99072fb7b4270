"""What searches found of single rewrites, kept on disk: one that was ended goes on where it stood."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from txgraph.cache import Measurements
from txgraph.ir import Graph
from txgraph.ir.digest import digest_of
from txgraph.rewrite import LossyPass, Place


@dataclass
class Findings:
    """Numbers by what they are of: errors and seconds of methods at places.

    Attributes:
        disk: where they are kept for other processes; ``None``: nowhere.
        reused: how many were there before.
    """

    disk: Measurements | None = None
    reused: int = 0
    _numbers: dict[str, Mapping[str, float]] = field(default_factory=dict)

    @classmethod
    def of(cls, graph: Graph, *others: str) -> Findings:
        """Those of searches on an exact graph with these weights; ``others``: what else errors depend on."""
        weights = [f"{name} {digest_of(tensor)}" for name, tensor in graph.constants.items()]
        text = "\n".join((str(graph), *weights, *others))
        disk = Measurements(of=hashlib.sha256(text.encode()).hexdigest()[:16])
        known = disk.all()
        return cls(disk, len(known), dict(known))

    def find(self, what: str) -> Mapping[str, float] | None:
        """The numbers, if they are known."""
        return self._numbers.get(what)

    def keep(self, what: str, *, for_others: bool = True, **numbers: float) -> None:
        """Add some; ``for_others``: on disk, too."""
        self._numbers[what] = numbers
        if self.disk is not None and for_others:
            self.disk.keep(what, numbers)


def named(method: LossyPass, place: Place) -> str:
    """A method with its settings at a place, as a text that is the same in every process."""
    return f"{method!r} {' '.join(digest[:16] for digest in place)}"


def graph_text(graph: Graph, *others: object) -> str:
    """What seconds depend on, beside the machine: a graph, and how it is compiled."""
    return hashlib.sha256("\n".join((str(graph), *map(str, others))).encode()).hexdigest()[:16]
