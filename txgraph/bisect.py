"""Find what makes an optimized model wrong: a rewrite, or a part of the graph that the backend compiles wrongly."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.fx import Node

from txgraph.backends import Backend, choose_backend
from txgraph.capture import CallSignature, capture
from txgraph.cost import CostModel, hardware_of
from txgraph.ir import Graph, extract, interpret, provenance_of
from txgraph.optimize import optimize
from txgraph.options import BackendOptions, Target
from txgraph.passes import default_pipeline
from txgraph.pipeline import PassRecord, Pipeline
from txgraph.progress import say
from txgraph.reproduction import reproduction
from txgraph.rewrite import PassContext
from txgraph.verify import Verifier, check_gates
from txgraph.verify.oracle import in_float64

log = logging.getLogger(__name__)

_MOST_TRIALS = 60  # compilations that are spent on making a part smaller


@dataclass(frozen=True)
class Culprit:
    """What is wrong.

    Attributes:
        stage: name of a pass, or ``backend inductor``.
        what: the rewrite's root, or the operators of the part that is compiled wrongly.
        module, location: of the first of them in the user's model.
        reason: the gates that break, or what was raised.
        reproduction: for a backend the source of a Python file that shows it by itself; else empty.
    """

    stage: str
    what: str
    module: str
    location: str
    reason: str
    reproduction: str = ""

    def __str__(self) -> str:
        where = " ".join(filter(None, (self.module, f"({self.location})" if self.location else "")))
        return f"{self.stage}: {self.what}{' in ' if where else ''}{where}: {self.reason}"


def bisect(
    model: nn.Module,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    backend: str = "inductor",
    passes: Pipeline | None = None,
    options: Mapping[str, Any] | BackendOptions | None = None,
    slow: bool = False,
) -> list[Culprit]:
    """The rewrites that are wrong for these inputs, and the smallest part that the backend compiles wrongly.

    Every rewrite is judged where it is made and by the outputs, as with ``verify="rewrites"``; those that break a gate
    are named. Then the graph that is left is compiled. If the result breaks a gate, the graph is cut down by bisection
    to the operators that still do, which takes up to 60 compilations of ever smaller graphs.

    Args:
        model, args, kwargs, backend, passes, options: as for :func:`txgraph.optimize`; the inputs are required.
        slow: look for the rewrites that make the model slower instead, each compiled and timed before and after.

    Returns:
        Nothing if all is right; else each culprit, in the order in which they come on the road.

    Raises:
        CaptureFailed, PassFailed, VerificationFailed: the road ends before.
    """
    if slow:
        fast = optimize(
            model, args, kwargs, backend=backend, passes=passes, options=options, verify="off", measure="rewrites"
        )
        measured = [m for graph in fast.report.graphs for m in graph.measurements if not m.pays]
        return [Culprit(m.rule, f"the rewrite of %{m.root} (x{m.places})", "", "", str(m)) for m in measured]
    signature = CallSignature.of(model)
    call = signature.flatten(args, kwargs or {})
    named = signature.normalise(args, kwargs or {})
    chosen, settings = choose_backend(backend), BackendOptions.parse(options)
    target = Target.of(next((t.device for t in call.tensors), torch.device("cpu")))
    say("capture")
    before = capture(model, *named).graph
    say("verify", "capture")
    verifier = Verifier("rewrites", model, *named, call.tensors)
    verifier.check_capture(before)
    cost = CostModel(settings.hardware or hardware_of(target), chosen.fuses_elementwise)
    context = PassContext(target, chosen.fused_activations(target), cost)
    pipeline = default_pipeline() if passes is None else passes
    after, records = pipeline.run(before, context, verifier.between_passes)
    found = [culprit for record in records for culprit in _of_pass(record, before)]
    tensors = [t.detach().clone(memory_format=torch.contiguous_format) for t in call.tensors]
    part = smallest_part(after, tensors, lambda graph: chosen.lower(graph, target, settings).run)
    if part is not None:
        found.append(_of_backend(chosen, part))
    return found


@dataclass(frozen=True)
class Part:
    """A part of a graph that is compiled wrongly, the values that it reads, and what shows it."""

    graph: Graph
    inputs: tuple[Any, ...]
    reason: str


Lower = Callable[[Graph], Callable[[Sequence[Any]], Sequence[Any]]]


def smallest_part(graph: Graph, inputs: Sequence[torch.Tensor], lower: Lower) -> Part | None:
    """The smallest part of a graph that still breaks a gate when it is compiled; ``None`` if the whole does not.

    The end is cut off first, then the beginning, each by bisection, then single operators.

    Args:
        lower: compiles a graph into a function of its inputs.
    """
    values: dict[str, Any] = {}

    def keep(node: Node, value: Any) -> Any:
        values[node.name] = value
        return value

    interpret(graph, inputs, keep)
    calls = [node.name for node in graph.calls()]
    trials = 0

    def broken(names: Sequence[str]) -> Part | None:
        nonlocal trials
        trials += 1
        say("compile", f"{len(names)} operators, trial {trials}")
        part = extract(graph, set(names))
        read = tuple(_as_captured(values[node.name], node) for node in part.inputs)
        if any(not isinstance(value, torch.Tensor) for value in (*read, *_results(part, values))):
            return None  # sizes that vary, or several results in one value: not a graph by itself
        reason = _difference(part, read, lower)
        log.info("%d operators: %s", len(names), reason or "right")
        return Part(part, read, reason) if reason else None

    worst = broken(calls)
    if worst is None:
        return None
    low, high = 0, len(calls)
    while high - low > 1:  # the fewest first operators that are wrong
        middle = (low + high) // 2
        part = broken(calls[:middle])
        low, high, worst = (low, middle, part) if part is not None else (middle, high, worst)
    calls = calls[:high]
    low, high = 0, len(calls)
    while high - low > 1:  # the most of these that can be left out at the beginning
        middle = (low + high) // 2
        part = broken(calls[middle:])
        low, high, worst = (middle, high, part) if part is not None else (low, middle, worst)
    calls = calls[low:]
    for name in list(calls):
        fewer = [each for each in calls if each != name]
        part = broken(fewer) if fewer and trials < _MOST_TRIALS else None
        if part is not None:
            calls, worst = fewer, part
    return worst


def _as_captured(value: Any, node: Node) -> Any:
    """A value in the layout that its type in the graph has: operators may give another, and compilers insist on it."""
    if not isinstance(value, torch.Tensor):
        return value
    strides = node.meta["val"].stride()
    if not all(isinstance(stride, int) for stride in strides) or value.stride() == strides:
        return value
    return torch.empty_strided(value.shape, strides, dtype=value.dtype, device=value.device).copy_(value)


def _results(part: Graph, values: Mapping[str, Any]) -> list[Any]:
    return [values[node.name] for node in part.outputs]


def _difference(part: Graph, read: Sequence[Any], lower: Lower) -> str:
    """How a compiled part differs from its operators in eager; empty if it does not."""
    eager = interpret(part, read)
    try:
        result = lower(part)(read)  # as they are: a clone may have other strides
    except Exception as error:  # a compiler raises whatever it does; that is what is looked for
        return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
    return "; ".join(str(gate) for gate in check_gates(result, eager, in_float64(part, read)) if not gate.passed)


def _of_pass(record: PassRecord, graph: Graph) -> list[Culprit]:
    """The rewrites that a pass had to leave out; the pass itself if it was rolled back."""
    nodes = {node.name: node for node in graph.nodes}
    reasons = dict(record.vetoed) if record.status != "rolled back" else {}
    found = []
    for root, reason in reasons.items():
        origin = provenance_of(nodes[root]) if root in nodes else None
        where = (origin.module, origin.location) if origin is not None else ("", "")
        found.append(Culprit(record.name, f"the rewrite of %{root}", *where, reason))
    if record.status == "rolled back":
        first = record.rewrites[0]
        what = f"all {len(record.rewrites)} rewrites, of %{first.root} and others"
        found.append(Culprit(record.name, what, first.module, first.location, record.reason))
    return found


def _of_backend(backend: Backend, part: Part) -> Culprit:
    calls = part.graph.calls()
    origin = provenance_of(calls[0])
    what = ", ".join(f"%{node.name} = {node.target}" for node in calls)
    return Culprit(
        f"backend {backend.name}",
        what,
        origin.module,
        origin.location,
        part.reason,
        reproduction(part.graph, part.inputs, part.reason, backend.name),
    )
