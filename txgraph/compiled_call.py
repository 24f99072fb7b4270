"""A compiled graph, and how it answers a call: what the model writes is written where it belongs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from txgraph.backends import Compiled
from txgraph.capture import InputGuard, ModelState
from txgraph.errors import GuardFailed
from txgraph.explain import Explanation, explain
from txgraph.ir import Graph
from txgraph.pipeline import Pipeline
from txgraph.profile import Profile
from txgraph.render import Stages
from txgraph.report import GraphReport
from txgraph.rewrite import PassContext


@dataclass(frozen=True)
class ExampleCall:
    """A call of a model that a graph is made for.

    Attributes:
        args, kwargs: as they are captured. tensors, structure: the same in flat form.
        dynamic_shapes: which axes may vary, as in :func:`torch.export.export`.
    """

    model: nn.Module
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    tensors: Sequence[torch.Tensor]
    structure: tuple[Any, ...]
    dynamic_shapes: Any = None


@dataclass(frozen=True)
class CompiledCall:
    """A compiled graph with all that is needed to answer calls that fit it.

    Attributes:
        structure: of the calls it answers. guard, state: what it assumed of inputs and model.
        before, after: the captured graph, and the one that was lowered.
        context: what the passes knew.
        compiled: takes the tensors of a call, gives all outputs: mutated values first.
        out_spec: how the output leaves are put together. notes: what the report was told.
    """

    structure: tuple[Any, ...]
    guard: InputGuard
    state: ModelState
    before: Graph
    after: Graph
    context: PassContext
    compiled: Compiled
    out_spec: pytree.TreeSpec
    report: GraphReport
    notes: tuple[str, ...] = ()

    def explain(self, pipeline: Pipeline, name: str) -> Explanation:
        """Where the pass of that name rewrote, and its near misses; see :func:`txgraph.explain.explain`."""
        made = [p for p in self.report.passes if p.lossy and p.name == name]
        if made or name in (each.name for each in pipeline.lossy):  # where it could have been used, the budget says
            return Explanation(name, tuple(rewrite for p in made for rewrite in p.rewrites), ())
        return explain(pipeline.exact, self.before, self.context, name, self._rolled_back())

    def stages(self, pipeline: Pipeline, text: str, profile: Profile | None = None) -> Stages:
        """Both graphs with all that is known of them, to be drawn.

        Args:
            text: the report. profile: of this graph, if it was measured later than the report was made.

        Raises:
            ValueError: it is of another graph.
        """
        rewrites = [r for p in self.report.passes if p.status == "applied" for r in p.rewrites]
        stages = Stages.of(pipeline, self.before, self.after, rewrites, self.context, self._rolled_back())
        profile = profile or self.report.profile
        if profile is not None and tuple(launch.kernel for launch in profile.launches) != self.compiled.kernels:
            raise ValueError("the profile is of another graph: call fast.profile() with inputs of the latest one")
        return replace(stages, kernels=self.compiled.kernels, profile=profile, report=self.report, text=text)

    def _rolled_back(self) -> set[str]:
        return {record.name for record in self.report.passes if record.status == "rolled back"}

    def __call__(self, tensors: Sequence[torch.Tensor]) -> Any:
        """Run, write mutated values back, and put the outputs together.

        Raises:
            GuardFailed: an input requires grad, or shares memory with one that the model writes to.
        """
        if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
            raise GuardFailed("an input requires grad: call the optimized model under torch.no_grad()")
        graph = self.after
        if any(m.kind == "input" for m in graph.mutations) and _overlap(tensors):
            raise GuardFailed(
                "the model writes to an input, and two inputs of this call share memory: pass a clone of one of them"
            )
        buffers = [graph.constants[m.target] for m in graph.mutations if m.kind == "buffer"]
        if buffers and _memory(buffers) & _memory(tensors):
            raise GuardFailed("the model writes to a buffer that is an input of this call: pass a clone of it")
        with torch.no_grad():
            taken = [t if t.is_contiguous() else t.contiguous() for t in tensors]
            if graph.mutations:
                outputs = self._write(tensors, taken)[len(graph.mutations) :]
            else:
                outputs = self.compiled.run(taken)
        if self.out_spec.is_leaf():
            return outputs[0]
        return pytree.tree_unflatten(outputs, self.out_spec)

    def _write(self, tensors: Sequence[torch.Tensor], taken: Sequence[torch.Tensor]) -> Sequence[Any]:
        """Run, and give what the model writes to its new values; one of these may be what another is written to.

        Args:
            tensors: of the call. taken: the same, contiguous.
        """
        graph, update, in_place = self.after, self.compiled.update, self.compiled.in_place
        names = [n.name for n in graph.inputs]
        written = [
            graph.constants[m.target] if m.kind == "buffer" else tensors[names.index(m.target)] for m in graph.mutations
        ]
        if update is None or not all(written[at].is_contiguous() for at in in_place):  # else it would write to a copy
            outputs, in_place = self.compiled.run(taken), frozenset()
        else:
            outputs = update(taken)
            torch.autograd.graph.increment_version([t for at in in_place if not (t := written[at]).is_inference()])
        rest = [at for at in range(len(written)) if at not in in_place]
        memory = _memory([written[at] for at in rest])
        values = [outputs[at].clone() if _memory([outputs[at]]) & memory else outputs[at] for at in rest]
        for at, value in zip(rest, values, strict=True):
            written[at].copy_(value)
        return outputs


def _memory(tensors: Sequence[torch.Tensor]) -> set[int]:
    return {t.untyped_storage().data_ptr() for t in tensors if t.numel()}


def _overlap(tensors: Sequence[torch.Tensor]) -> bool:
    """Whether two tensors share a storage."""
    return len(_memory(tensors)) < sum(t.numel() > 0 for t in tensors)


def frozen_tensors(before: Graph, after: Graph, compiled: Compiled) -> dict[str, torch.Tensor]:
    """The model's tensors whose values ``after`` or what was compiled of it holds, or rests on, by name."""
    frozen = after.constants.frozen_values() | compiled.frozen
    return {name: tensor for name, tensor in before.constants.items() if name in frozen}
