"""The model as one exact graph, with the calls of a calibration that it takes, and their true results."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.fx import Node
from torch.utils import _pytree as pytree

from txgraph.capture import CallSignature, InputGuard, capture
from txgraph.capture.shapes import next_shapes
from txgraph.errors import GuardFailed
from txgraph.ir import Graph, interpret
from txgraph.ir.linears import Linears
from txgraph.ir.padding import with_zeros
from txgraph.lossy.calibration import Calibration
from txgraph.lossy.distance import Distance
from txgraph.lossy.observe import MOST_BYTES, moment_bytes, observe
from txgraph.options import VerifyLevel
from txgraph.pipeline import Pipeline
from txgraph.progress import track
from txgraph.rewrite import Observed, PassContext
from txgraph.verify import Verifier
from txgraph.verify.oracle import Float64

Tensors = Sequence[torch.Tensor]
FEW_ELEMENTS = 1 << 14  # of the inputs of those calls that the path is tried on
FEWEST_ELEMENTS, FEWEST_SAMPLES = 1 << 7, 4  # of those that single rewrites are compared by, each with a run of its own


@dataclass
class Subject:
    """What a search tries its rewrites on.

    Attributes:
        graph: exact: as the model, after all exact passes that are right for every call.
        chosen_by, held_out: tensors of the calls. truth: of each call the outputs in float64, by its number.
        notes: what of the calibration is not used.
    """

    model: nn.Module
    signature: CallSignature
    graph: Graph
    context: PassContext
    guard: InputGuard
    structure: tuple[Any, ...]
    out_spec: pytree.TreeSpec
    chosen_by: list[Tensors]
    held_out: list[Tensors]
    notes: tuple[str, ...]
    _before: Graph
    _truth: dict[int, list[object]] = field(default_factory=dict)
    _observed: dict[str, Observed] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        model: nn.Module,
        calibration: Calibration,
        seed: int,
        pipeline: Pipeline,
        context: PassContext,
        level: VerifyLevel,
    ) -> Subject:
        """Capture the model for the calls of a calibration, and run the exact passes.

        Raises:
            ValueError: the calls are not of one form. CaptureFailed, PassFailed, VerificationFailed: as in optimize().
            TypeError: they do not fit the model's ``forward``.
        """
        signature = CallSignature.of(model)
        flat = [signature.flatten(call.args, call.kwargs) for call in calibration.calls]
        for at, each in enumerate(flat):
            if each.structure != flat[0].structure:
                raise ValueError(f"batch {at} of the calibration is made otherwise than batch 0")
        largest = max(range(len(flat)), key=lambda at: sum(t.numel() for t in flat[at].tensors))
        call = calibration.calls[largest]
        args, kwargs = signature.normalise(call.args, call.kwargs)
        seen = [(each.structure, [t.shape for t in each.tensors]) for each in flat]
        captured = capture(model, args, kwargs, next_shapes(signature, args, kwargs, flat[largest], seen))
        verifier = Verifier(level, model, args, kwargs, flat[largest].tensors)
        verifier.check_capture(captured.graph)
        graph, _ = pipeline.run(captured.graph, context, verifier.between_passes)
        guard = InputGuard.of(captured.graph)
        halves: list[list[Tensors]] = []
        for half in calibration.split(seed):
            tensors = [_contiguous(signature.flatten(each.args, each.kwargs).tensors) for each in half]
            halves.append([each for each in tensors if guard.accepts(each)])
        chosen_by, held_out = halves
        fitting = len(chosen_by) + len(held_out)
        if not (chosen_by and held_out):
            raise ValueError(
                f"{fitting} of the {len(flat)} batches of the calibration have sizes that one graph takes, and both "
                f"halves need some: give batches of equal sizes, or whose sizes vary above 1"
            )
        left = len(flat) - fitting
        notes = (
            (f"{left} of the {len(flat)} batches of the calibration have sizes of their own: not used",) if left else ()
        )
        structure, out_spec, before = flat[0].structure, captured.out_spec, captured.graph
        return cls(model, signature, graph, context, guard, structure, out_spec, chosen_by, held_out, notes, before)

    @property
    def few(self) -> list[Tensors]:
        """So many of the calls that choose as it takes to try rewrites; not those observed, if there are others."""
        return self._first(FEW_ELEMENTS, 1)

    @property
    def fewest(self) -> list[Tensors]:
        """The first of :attr:`few`: to compare rewrites that are each made alone."""
        return self._first(FEWEST_ELEMENTS, FEWEST_SAMPLES)

    def _first(self, elements: int, samples: int) -> list[Tensors]:
        taken: list[Tensors] = []
        for tensors in self.chosen_by[1::2] or self.chosen_by:
            taken.append(tensors)
            elements -= sum(t.numel() for t in tensors)
            samples -= max((t.shape[0] for t in tensors if t.ndim), default=1)
            if elements <= 0 and samples <= 0:
                break
        return taken

    def distance(self, graph: Graph, calls: Sequence[Tensors], what: str = "") -> Distance:
        """How far a graph's outputs are from the model's own in float64, on some of the calls."""
        distance = Distance()
        for tensors in track(calls, "compress", lambda _: what):
            distance = distance.plus(interpret(graph, tensors), self.truth(tensors))
        return distance

    def truth(self, tensors: Tensors) -> list[object]:
        """What the model gives for a call in float64, with zeros where the caller wants them."""
        if id(tensors) not in self._truth:
            with Float64():
                values = interpret(self._before, [t.double() if t.is_floating_point() else t for t in tensors])
            masks = dict(zip((str(n.target) for n in self.graph.inputs), tensors, strict=True))
            self._truth[id(tensors)] = with_zeros(values, self.graph.zeroed, masks)
        return self._truth[id(tensors)]

    def observe(self, graph: Graph, nodes: Sequence[Node]) -> Iterator[Mapping[str, Observed]]:
        """What flows into some linears of the exact graph, or of what a pass made of it.

        See :func:`txgraph.lossy.observe.observe`.
        """
        calls = self.chosen_by[::2]  # the others say how well that served
        if not self._observed:
            everything = [node for node in self.graph.calls() if Linears.of(node) is not None]
            if moment_bytes(everything) <= MOST_BYTES:
                for group in observe(self.graph, everything, calls):
                    self._observed |= group
        if all(node.name in self._observed for node in nodes):
            yield {node.name: self._observed[node.name] for node in nodes}
        else:
            mine = {node.name for node in self.graph.nodes}
            yield from observe(self.graph if mine.issuperset(n.name for n in nodes) else graph, nodes, calls)

    def forget_observed(self) -> None:
        """Give back the memory of what was observed: who asks again waits for it again."""
        self._observed.clear()

    def as_model(self, graph: Graph) -> nn.Module:
        """A graph as a module that is called as the model is."""
        return _GraphModel(self, graph)


class _GraphModel(nn.Module):
    def __init__(self, subject: Subject, graph: Graph) -> None:
        super().__init__()
        self.training = subject.model.training
        vars(self)["_subject"], vars(self)["_graph"] = subject, graph

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        subject: Subject = vars(self)["_subject"]
        graph: Graph = vars(self)["_graph"]
        call = subject.signature.flatten(args, kwargs)
        tensors = _contiguous(call.tensors)
        if call.structure != subject.structure or not subject.guard.accepts(tensors):
            raise GuardFailed("the budget's metric calls the model in a form that no batch of the calibration has")
        outputs = interpret(graph, tensors)[len(graph.mutations) :]
        return outputs[0] if subject.out_spec.is_leaf() else pytree.tree_unflatten(outputs, subject.out_spec)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(vars(self)["_subject"].model, name)


def _contiguous(tensors: Tensors) -> list[torch.Tensor]:
    return [t.detach().contiguous() for t in tensors]
