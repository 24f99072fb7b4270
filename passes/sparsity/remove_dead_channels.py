"""Remove hidden channels that have no effect, or the same at each call.

before:  linear(act(linear(x, W1, b1)), W2, b2)            x: [..., K]  W1: [F, K]  W2: [N, F]
after:   linear(act(linear(x, W1', b1')), W2', b2')        W1': [F', K]  W2': [N, F']
         also with gates, splits, casts, constants and views between, and where several linears make or read the
         channels. A channel is dead if W2 has zeros for it, or if zero rows make it a constant: then its share,
         act(b1[j]) * W2[:, j], goes into b2', computed in float64 and rounded once (in 16 bits only if it is zero)
legal:   the weights are constants that no call changes and that nothing else uses; the hidden values are not used
         elsewhere; the constant is finite. One channel stays, which hands on a NaN of x. Where x is infinite, or a
         dead channel overflows, eager's 0 * inf is NaN, and the result here may be finite
pays:    2 K + 2 N floating-point operations for each token and channel, and the weights' bytes; the model keeps its own
         weights beside the smaller ones, so fewer than ``least_share`` of the channels are left where they are. Any
         width is as good as another: 2145 channels took within 3 % of the time of 2144 (768 x F x 768 in float32,
         1 to 128 rows, one thread of an x86-64 with AVX-512; torch's linear and our own)
source:  Hu et al. 2016 (Network trimming), section 3; the channels that training or pruning left at zero
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch.fx import Node

from txgraph.ir import Graph
from txgraph.passes.fold.new_weights import rounded
from txgraph.passes.sparsity.channels import HiddenChannels, channels_before
from txgraph.passes.sparsity.flow import UnitFlow
from txgraph.passes.sparsity.known_channels import known_values, names_read
from txgraph.passes.sparsity.linears import any_zero_lines, is_linear, linear_of, weights_of, zero_lines
from txgraph.passes.sparsity.take_out import share_of, without_units
from txgraph.passes.sparsity.units import NO_UNIT
from txgraph.rewrite import Pass, PassContext, Reject, Rewrite


@dataclass(frozen=True)
class RemoveDeadChannels(Pass):
    """Feed-forward blocks as wide as what they do.

    Attributes:
        least_share: of the channels of a block that must be dead.
    """

    least_share: float = 0.01

    @property
    def pays(self) -> bool:
        return True

    def run(self, graph: Graph, context: PassContext) -> list[Rewrite]:
        rewrites: list[Rewrite] = []
        made: list[Rewrite] | None = None
        while made is None or made:  # what is dead may have been all that another channel was for
            made = self._sweep(graph, context)
            rewrites += made
            context = replace(context, near_misses=None)  # those of the first sweep are the user's graph's
        return rewrites

    def _sweep(self, graph: Graph, context: PassContext) -> list[Rewrite]:
        rewrites: list[Rewrite] = []
        seen: set[Node] = set()
        if not any_zero_lines(graph):
            return rewrites
        for linear in reversed(graph.calls()):  # users first
            if linear in seen or not is_linear(linear):
                continue
            block = channels_before(graph, linear)
            if isinstance(block, Reject):
                if _reads_zeros(graph, linear):
                    context.decline(self, linear, block.reason, block.node)
                continue
            makers = [maker for value in block.flow.made if (maker := linear_of(value)) is not None]
            seen.update(block.flow.readers)
            rewrite = self._remove(graph, block, linear, context)
            if rewrite is not None:
                seen.update(makers)  # they were replaced
                rewrites.append(rewrite)
        return rewrites

    def _remove(self, graph: Graph, block: HiddenChannels, linear: Node, context: PassContext) -> Rewrite | None:
        flow = block.flow
        dead, constants = _dead_channels(graph, flow)
        problem = _why_not_shifted(graph, flow, dead, constants)
        if problem:
            dead, constants = dead & ~_shifts(flow, constants), {}
        if bool(dead.all()):
            dead[0] = False  # a linear of no channels, and no NaN of x in its result
        if not bool(dead.any()):
            if problem:
                context.decline(self, linear, problem)
            return None
        if int(dead.sum()) < self.least_share * flow.count:
            context.decline(self, linear, f"only {int(dead.sum())} of {flow.count} channels are dead")
            return None
        smaller = without_units(graph, flow, ~dead, self.name, constants)
        if not smaller.is_wanted(self, context):
            return None
        graph.constants.observe(names_read(graph, flow))
        return smaller.apply(self.name)


def _reads_zeros(graph: Graph, linear: Node) -> bool:
    """Whether a channel that a linear reads has no effect."""
    weights = [graph.frozen(weight.constant) for weight in weights_of(linear)]
    if any(w is None or w.ndim != 2 or w.is_meta for w in weights):
        return False
    return bool(_unread(graph, linear).any())


def _unread(graph: Graph, linear: Node) -> torch.Tensor:
    """Of which columns the weights of a linear are zero."""
    return torch.stack([zero_lines(weight.values(graph), 0) for weight in weights_of(linear)]).all(0)


def _dead_channels(graph: Graph, flow: UnitFlow) -> tuple[torch.Tensor, Mapping[str, torch.Tensor]]:
    """Which units are dead, ``[F]``, and by the value that is read what each place of it is; 0 where nobody reads."""
    known, constants = known_values(graph, flow), dict[str, torch.Tensor]()
    dead = torch.ones(flow.count, dtype=torch.bool)
    for value, linear in flow.read:
        unread = _unread(graph, linear)
        fixed = known.get(value, torch.full(unread.shape, torch.nan, dtype=torch.float64))
        constants[value.name] = torch.where(unread, 0.0, fixed.nan_to_num())
        alive = ~unread & fixed.isnan()
        labels = _labels(flow, value)
        dead[labels[alive & (labels != NO_UNIT)]] = False
    return dead, constants


def _shifts(flow: UnitFlow, constants: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Which units are constant, but not zero."""
    shifts = torch.zeros(flow.count, dtype=torch.bool)
    for value, _ in flow.read:
        labels = _labels(flow, value)
        shifts[labels[(constants[value.name] != 0) & (labels != NO_UNIT)]] = True
    return shifts


def _labels(flow: UnitFlow, value: Node) -> torch.Tensor:
    labels = flow.units[value].labels
    return labels.repeat(int(value.meta["val"].shape[-1]) // len(labels))


def _why_not_shifted(graph: Graph, flow: UnitFlow, dead: torch.Tensor, constants: Mapping[str, torch.Tensor]) -> str:
    """Why the share of constant channels cannot go into the biases; empty if it can."""
    for value, linear in flow.read:
        for weight in weights_of(linear):
            held, bias = weight.values(graph), weight.bias_values(graph)
            share = share_of(held, flow.units[value], ~dead, constants[value.name])
            total = rounded(share if bias is None else bias.double() + share, held.dtype)
            if bool(share.any()) and isinstance(total, str):
                return total
    return ""
