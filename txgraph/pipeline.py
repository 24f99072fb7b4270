"""A pipeline is a tuple of passes with one hook between them."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from txgraph.errors import InvalidGraph, PassFailed
from txgraph.ir import Graph, check_spec
from txgraph.progress import track
from txgraph.rewrite import LossyPass, Pass, PassContext, Rewrite

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PassRecord:
    """What one pass did.

    Attributes:
        status: ``"applied"``, ``"unchanged"``, or ``"rolled back"`` (its result broke a gate).
        rewrites: what it rewrote; kept also when it was rolled back.
        seconds: time in the pass itself; the hook's time is its own.
        reason: why it was rolled back.
        vetoed: rewrites that the hook took out, by their roots, with the reasons.
        lossy: what a lossy pass did, with its settings; it is judged by the budget, not by the hook.
    """

    name: str
    status: str
    rewrites: tuple[Rewrite, ...] = ()
    seconds: float = 0.0
    reason: str = ""
    vetoed: Mapping[str, str] = field(default_factory=dict)
    lossy: str = ""


@dataclass(frozen=True)
class PassResult:
    """What a pass made of a graph.

    Attributes:
        each: the pass. before, after: the graph before it, and the one that it made.
        context: what the pass knew. vetoed: what it had to leave out, roots to reasons.
    """

    each: Pass
    before: Graph
    after: Graph
    rewrites: tuple[Rewrite, ...]
    context: PassContext
    vetoed: Mapping[str, str] = field(default_factory=dict)

    def without(self, reasons: Mapping[str, str]) -> PassResult:
        """What the pass makes when it also leaves out the rewrites with these roots.

        Raises:
            PassFailed: it raised, or broke the spec.
        """
        vetoed = {**self.vetoed, **reasons}
        vetoes = {(self.each.name, root): reason for root, reason in vetoed.items()}
        after = self.before.copy()
        context = replace(self.context, vetoes={**self.context.vetoes, **vetoes})
        return replace(self, after=after, rewrites=tuple(_run(self.each, after, self.before, context)), vetoed=vetoed)


class BetweenPasses(Protocol):
    """The one hook: called after each pass that changed something."""

    def __call__(self, result: PassResult) -> str | Mapping[str, str]:
        """An empty text accepts the result; a reason rolls the pass back.

        Reasons by the roots of rewrites have the pass run again without these rewrites.
        """


def accept_all(result: PassResult) -> str:
    """The hook that accepts everything."""
    return ""


@dataclass(frozen=True)
class Pipeline:
    """Passes in the order in which they run; every change gives a new pipeline.

    >>> from txgraph.passes import default_pipeline
    >>> "fuse-attention" in default_pipeline().names
    True
    """

    passes: tuple[Pass, ...] = field(default=())

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the passes, in order."""
        return tuple(p.name for p in self.passes)

    def __iter__(self) -> Iterator[Pass]:
        return iter(self.passes)

    def __len__(self) -> int:
        return len(self.passes)

    @property
    def lossy(self) -> tuple[LossyPass, ...]:
        """The passes that are lossy: they run after all others, and only under a budget."""
        return tuple(each for each in self.passes if isinstance(each, LossyPass))

    @property
    def exact(self) -> Pipeline:
        """The passes that are not."""
        return Pipeline(tuple(each for each in self.passes if not isinstance(each, LossyPass)))

    def append(self, added: Pass) -> Pipeline:
        """With ``added`` after all others."""
        return replace(self, passes=(*self.passes, _pass(added)))

    def insert_before(self, name: str, added: Pass) -> Pipeline:
        """With ``added`` before the first pass of that name."""
        at = self.index(name)
        return replace(self, passes=(*self.passes[:at], _pass(added), *self.passes[at:]))

    def insert_after(self, name: str, added: Pass) -> Pipeline:
        """With ``added`` after the last pass of that name."""
        self.index(name)
        at = len(self.passes) - self.names[::-1].index(name)
        return replace(self, passes=(*self.passes[:at], _pass(added), *self.passes[at:]))

    def without(self, name: str) -> Pipeline:
        """Without any pass of that name."""
        self.index(name)
        return replace(self, passes=tuple(p for p in self.passes if p.name != name))

    def run(
        self, graph: Graph, context: PassContext, between: BetweenPasses = accept_all
    ) -> tuple[Graph, list[PassRecord]]:
        """Run all passes; ``graph`` itself is not changed.

        Passes work on a copy, which must keep the IR's spec and be accepted by ``between``; a pass that changes
        nothing leaves it to the next.

        Raises:
            PassFailed: a pass raised or broke the spec. Its ``graph`` is the last good graph.
        """
        records = []
        candidate: Graph | None = None
        for each in track(self.passes, "passes", lambda each: each.name):
            started = time.perf_counter()
            if candidate is None:
                candidate = graph.copy()
                untouched = candidate.snapshot()
            rewrites = tuple(_run(each, candidate, graph, context))
            if not rewrites:
                if candidate.snapshot() != untouched:
                    candidate = None  # whatever the pass did, it does not stand by it
                else:
                    graph = replace(graph, assumptions=candidate.assumptions)
                records.append(PassRecord(each.name, "unchanged", seconds=time.perf_counter() - started))
                continue
            seconds = time.perf_counter() - started
            candidate, record = _judge(PassResult(each, graph, candidate, rewrites, context), between)
            records.append(replace(record, seconds=seconds))
            log.info("%s: %d rewrites, %s %s", each.name, len(record.rewrites), record.status, record.reason)
            if record.status == "applied":
                graph = candidate
            candidate = None
        return graph, records

    def index(self, name: str) -> int:
        """Where the first pass of that name is.

        Raises:
            ValueError: there is none; the message lists the names.
        """
        if name not in self.names:
            raise ValueError(f"no pass named {name!r} in this pipeline: it has {list(self.names)}")
        return self.names.index(name)


def _run(each: Pass, candidate: Graph, before: Graph, context: PassContext) -> list[Rewrite]:
    """Run one pass on its own copy and hold it to the spec; name it in every failure."""
    try:
        rewrites = each.run(candidate, context)
        if rewrites:
            candidate.eliminate_dead_code()
            check_spec(candidate, before)
    except PassFailed as error:
        error.graph = before
        raise
    except InvalidGraph as error:
        raise PassFailed(f"pass {each.name} left an invalid graph: {error}", graph=before) from error
    except Exception as error:  # whatever a user's pass raises is reported under the pass's name
        raise PassFailed(f"pass {each.name} raised {type(error).__name__}: {error}", graph=before) from error
    return rewrites


def _judge(result: PassResult, between: BetweenPasses) -> tuple[Graph, PassRecord]:
    """Ask the hook; where it takes out rewrites, run the pass again without them, and ask again."""
    verdict = between(result)
    while not isinstance(verdict, str):
        if not verdict:
            verdict = ""
        elif not verdict.keys() - result.vetoed.keys():
            verdict = f"it cannot leave out single rewrites: {next(iter(verdict.values()))}"
        else:
            result = result.without(verdict)
            verdict = between(result) if result.rewrites else ""
    status = "rolled back" if verdict else "applied" if result.rewrites else "unchanged"
    return result.after, PassRecord(
        result.each.name, status, result.rewrites, reason=verdict, vetoed=dict(result.vetoed)
    )


def _pass(value: object) -> Pass:
    if not isinstance(value, Pass):
        raise TypeError(f"expected a txgraph.Pass, got {value!r}; did you forget to instantiate it?")
    return value
