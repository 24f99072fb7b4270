"""``backend="auto"`` where several backends can serve: whole graphs, and layers one by one, chosen by measurement."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch

from txgraph.backends.base import Backend, Compiled, Watch
from txgraph.backends.calls.attention import choose_attention
from txgraph.backends.calls.gemm import choose_gemms
from txgraph.backends.pieces import Piece, layers
from txgraph.cost import best_seconds, random_like
from txgraph.errors import BackendFailed
from txgraph.ir import Graph, Kernel, interpret
from txgraph.ir.kernel import compute_themselves
from txgraph.ir.node import COMPUTES, is_symbolic
from txgraph.options import BackendOptions, Target
from txgraph.progress import say
from txgraph.verify import check_gates
from txgraph.verify.oracle import in_float64

NOISE = 0.03  # of the time: what is not faster by more than this does not replace the first backend's whole graph
SECONDS = 0.5  # of running, for each comparison
ROUNDS = 5  # at least


@dataclass(frozen=True)
class AutoBackend:
    """Takes what measures fastest: the graph by one backend as a whole, or each repeated layer by its own.

    Attributes:
        backends: by preference; the first serves alone where nothing can be measured, and must be able to lower.
    """

    backends: tuple[Backend, ...]
    name: str = "auto"
    fuses_elementwise: bool = True

    @property
    def settings(self) -> str:
        """Those of all."""
        return "; ".join(f"{each.name}: {each.settings}" for each in self.backends)

    def fused_activations(self, target: Target) -> frozenset[str]:
        """What all of them compute inside a linear."""
        return frozenset.intersection(*(each.fused_activations(target) for each in self.backends))

    def unsupported(self, graph: Graph, target: Target) -> list[str]:
        """What stands in the way of the first; another that cannot lower is left out."""
        return self.backends[0].unsupported(graph, target)

    def obstacle(self, target: Target) -> str:
        """That of the first: for devices it serves alone."""
        return self.backends[0].obstacle(target)

    def prepare(self, weights: Iterable[torch.Tensor], target: Target) -> None:
        """Start what those need that will lower."""
        held = list(weights)
        for each in self.backends if target.kind == "cpu" else self.backends[:1]:
            each.prepare(held, target)

    def lower(self, graph: Graph, target: Target, options: BackendOptions) -> Compiled:
        """Compile in all ways for which ``options.choose_seconds`` last, and keep the fastest.

        Raises:
            BackendFailed: the first backend failed; of others the report says so.
        """
        stop = time.perf_counter() + options.choose_seconds
        first = self.backends[0]
        whole = first.lower(graph, target, options)
        if target.kind != "cpu":
            return _kept_by(whole, first.name)
        if any(is_symbolic(node) for node in graph.nodes) or any(
            _has_symbols(node.meta["val"]) for node in graph.inputs
        ):
            return _kept_by(whole, first.name, {"backend": f"{first.name}: sizes are dynamic, nothing was measured"})
        trial = _Trial(graph, target, options, stop)
        ways = {first.name: whole}
        for each in self.backends[1:]:
            made = trial.lower(each, graph, f"{each.name}, whole")
            if made is not None and trial.passes(made, graph, trial.inputs, f"{each.name}, whole"):
                ways[each.name] = made
        composed = self._by_layers(trial)
        if composed is not None and trial.passes(composed, graph, trial.inputs, "by layers"):
            ways["by layers"] = composed
        best = first.name
        if len(ways) > 1:
            runs = {name: partial(way.run, trial.inputs) for name, way in ways.items()}
            seconds = trial.measure(runs)
            fastest = min(seconds, key=seconds.__getitem__)
            if _is_faster(seconds, fastest, first.name):
                again = trial.measure({name: runs[name] for name in (first.name, fastest)})
                best = fastest if _is_faster(again, fastest, first.name) else first.name
                seconds |= {name: min(seconds[name], again[name]) for name in again}
            trial.choices["backend"] = _words(best, seconds)
        else:
            trial.choices["backend"] = f"{best}: no other was measured"
        return _kept_by(ways[best], best, trial.choices)

    def restore(self, kept: Any) -> Compiled:
        """Load each part by the backend that made it."""
        by_name = {each.name: each for each in self.backends}
        name, held, choices = kept
        if isinstance(held, _Composed):
            made = {at: by_name[owner].restore(part) for at, (owner, part) in held.kept.items()}
            return _kept_by(replace(held, codes=made).compiled(), name, choices)
        return _kept_by(by_name[name].restore(held), name, choices)

    def _by_layers(self, trial: _Trial) -> Compiled | None:
        """Each unique piece by the backend that is fastest on it; ``None``: no layers, or one is best on all."""
        lowered = trial.graph.copy()
        compute_themselves(lowered)
        choose_gemms(lowered, trial.options.cache)
        choose_attention(lowered, trial.options.cache)
        pieces = layers(lowered, trial.target, trial.options.layers)
        if len(pieces) < 2:
            return None
        needed = {name for at, piece in enumerate(pieces) if piece.like == at for name in piece.inputs}
        values = {}

        def watch(node: torch.fx.Node, value: Any) -> Any:
            if node.name in needed:
                values[node.name] = value
            return value

        interpret(lowered, trial.inputs, watch)
        codes, owners = dict[int, Compiled](), dict[int, str]()
        for at, piece in enumerate(pieces):
            if piece.like != at:
                continue
            count = sum(each.like == at for each in pieces)
            about = f"layers (x{count})" if count > 1 else f"piece {at}"
            part, inputs = piece.graph(lowered), [values[name] for name in piece.inputs]
            ways = {}
            for each in self.backends:
                made = trial.lower(each, part, f"{each.name}, {about}")
                if made is not None and trial.passes(made, part, inputs, f"{each.name}, {about}"):
                    ways[each.name] = made
            if not ways:
                return None
            seconds = trial.measure({name: partial(way.run, inputs) for name, way in ways.items()})
            fastest, first = min(seconds, key=seconds.__getitem__), next(iter(seconds))
            owners[at] = fastest if _is_faster(seconds, fastest, first) else first
            codes[at] = ways[owners[at]]
            trial.choices[about] = _words(owners[at], seconds)
        if len(set(owners.values())) == 1:
            return None  # that backend's whole graph is as good or better
        return _Composed.of(lowered, pieces, codes, owners).compiled()


@dataclass
class _Trial:
    """One graph that several backends try, within a time."""

    graph: Graph
    target: Target
    options: BackendOptions
    stop: float
    choices: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.inputs = [random_like(node.meta["val"]) for node in self.graph.inputs]

    def lower(self, backend: Backend, graph: Graph, about: str) -> Compiled | None:
        """``None``: it is left out, and the choices say why."""
        if time.perf_counter() > self.stop:
            self.choices[about] = f"left out: {self.options.choose_seconds:g} s were over (options choose_seconds)"
            return None
        reasons = backend.unsupported(graph, self.target)
        if not reasons:
            say("lower", about)
            try:
                return backend.lower(graph, self.target, self.options)
            except BackendFailed as error:
                reasons = [str(error)]
        self.choices[about] = f"left out: {reasons[0]}"
        return None

    def passes(self, made: Compiled, graph: Graph, inputs: Sequence[torch.Tensor], about: str) -> bool:
        """Whether it is as good as eager on these inputs, by the gates; if not, the choices say which broke."""
        with torch.no_grad():
            gates = check_gates(made.run(inputs), interpret(graph, inputs), in_float64(graph, inputs))
        broken = [str(gate) for gate in gates if not gate.passed]
        if broken:
            self.choices[about] = f"left out, it broke a gate: {broken[0]}"
        return not broken

    def measure(self, ways: Mapping[str, Callable[[], object]]) -> dict[str, float]:
        """Seconds of each, in turns."""
        say("measure", ", ".join(ways), timed=True)
        with torch.no_grad():
            return dict(zip(ways, best_seconds(*ways.values(), seconds=SECONDS, rounds=ROUNDS), strict=True))


@dataclass(frozen=True)
class _Composed:
    """Pieces by several backends, in the order in which they run.

    Attributes:
        weights: constants by name of their node. inputs, outputs: of the graph; an output may be a plain value.
        kept: for each piece that was compiled, its backend's name and what that keeps.
    """

    pieces: tuple[Piece, ...]
    weights: dict[str, torch.Tensor]
    inputs: tuple[str, ...]
    outputs: tuple[tuple[bool, Any], ...]
    kernels: tuple[Kernel, ...]
    frozen: frozenset[str]
    owners: dict[int, str]
    codes: dict[int, Compiled]
    kept: dict[int, tuple[str, Any]] = field(default_factory=dict)

    @classmethod
    def of(cls, graph: Graph, pieces: Sequence[Piece], codes: dict[int, Compiled], owners: dict[int, str]) -> _Composed:
        nodes = {node.name: node for node in graph.nodes}
        weights = {n.name: graph.constants[str(n.target)] for n in graph.nodes if n.op == "get_attr"}
        kernels = tuple(
            Kernel(
                f"{owners[piece.like]}_piece_{piece.like}",
                tuple(dict.fromkeys(c for name in piece.names for c in nodes[name].meta.get(COMPUTES, ()))),
                "generated",
                codes[piece.like].code,
            )
            for piece in pieces
        )
        outputs = tuple(
            (isinstance(n, torch.fx.Node), str(n) if isinstance(n, torch.fx.Node) else n) for n in graph.outputs
        )
        inputs = tuple(node.name for node in graph.inputs)
        return cls(tuple(pieces), weights, inputs, outputs, kernels, graph.constants.frozen_values(), owners, codes)

    def compiled(self) -> Compiled:
        fallbacks = tuple(reason for code in self.codes.values() for reason in code.fallbacks)
        return Compiled(
            self._run,
            "\n".join(code.code for code in self.codes.values()),
            keep=self._keep if all(code.keep for code in self.codes.values()) else None,
            frozen=self.frozen,
            kernels=self.kernels,
            watched=self._watched,
            fallbacks=fallbacks,
        )

    def _keep(self) -> _Composed:
        kept = {at: (self.owners[at], code.keep()) for at, code in self.codes.items() if code.keep is not None}
        return replace(self, codes={}, kept=kept)

    def _run(self, tensors: Sequence[torch.Tensor], watch: Watch | None = None) -> Sequence[Any]:
        values = self.weights | dict(zip(self.inputs, tensors, strict=True))
        for number, piece in enumerate(self.pieces):
            run, given = self.codes[piece.like].run, [values[name] for name in piece.inputs]
            if watch is None:
                results = run(given)
            else:
                with watch.launch(number):
                    results = run(given)
            values.update(zip(piece.outputs, results, strict=True))
        return tuple(values[value] if computed else value for computed, value in self.outputs)

    def _watched(self, tensors: Sequence[torch.Tensor], watch: Watch) -> Sequence[Any]:
        with watch.call():
            return self._run(tensors, watch)


def _kept_by(made: Compiled, name: str, choices: dict[str, str] | None = None) -> Compiled:
    """The same, kept with the name of what made it, and with these choices beside its own."""
    told = choices or {}
    keep = made.keep
    return replace(
        made,
        choices=told | made.choices,
        keep=None if keep is None else lambda: (name, keep(), told),
    )


def _is_faster(seconds: dict[str, float], name: str, than: str) -> bool:
    """By more than noise."""
    return seconds[name] < seconds[than] * (1 - NOISE)


def _words(best: str, seconds: dict[str, float]) -> str:
    return f"{best} ({', '.join(f'{each * 1e3:.3f} ms {name}' for name, each in seconds.items())})"


def _has_symbols(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and any(isinstance(s, torch.SymInt) for s in (*value.shape, *value.stride()))
