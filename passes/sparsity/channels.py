"""Hidden channels: what one linear makes of its input only for another to read, as in a feed-forward block.

    linear(act(linear(x, W1, b1)), W2, b2)        x: [..., K]  W1: [F, K]  W2: [N, F]: F channels, K or N of which
    linear(act(gate) * up, W2)                    do not matter; gate and up are linears of x, or halves of one

Between the linears may stand what keeps channels apart: activations, constants, casts, splits, views.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch.fx import Node

from txgraph.ir import Graph, provenance_of
from txgraph.passes.sparsity.flow import UnitFlow, find_units
from txgraph.passes.sparsity.linears import is_linear, linear_of
from txgraph.passes.sparsity.rules import shape_of
from txgraph.passes.sparsity.take_out import without_units
from txgraph.passes.sparsity.units import Units
from txgraph.rewrite import Reject, Rewrite


@dataclass(frozen=True)
class HiddenChannels:
    """The channels between some linears.

    Attributes:
        before, after: names of the linears that make the channels, and that read them.
        hidden: name of the value ``[..., F]`` that the first of ``after`` reads.
        width: F, the number of channels.
        dtype: of the hidden value.
        module, location: of the first of ``after``.
        flow: all values that hold the channels. It is of one graph, as that graph is now.
    """

    before: tuple[str, ...]
    after: tuple[str, ...]
    hidden: str
    width: int
    dtype: torch.dtype
    module: str
    location: str
    flow: UnitFlow = field(repr=False, compare=False)


def hidden_channels(graph: Graph) -> list[HiddenChannels]:
    """All hidden channels of a graph of which some can be taken out, those that are read first at the beginning."""
    found: list[HiddenChannels] = []
    for linear in graph.calls():
        if is_linear(linear) and not any(linear.name in block.after for block in found):
            block = channels_before(graph, linear)
            found += [block] if isinstance(block, HiddenChannels) else []
    return found


def channels_before(graph: Graph, linear: Node) -> HiddenChannels | Reject:
    """The hidden channels that a linear reads; or why none of what it reads can be taken out."""
    hidden: Node = linear.args[0]  # type: ignore[assignment]  # schema: a tensor
    axis, width = len(shape_of(hidden)) - 1, shape_of(hidden)[-1]
    if not isinstance(width, int) or width < 2:
        return Reject(f"it reads {width} channels", linear)
    flow = find_units(graph, width, {hidden: Units(axis, torch.arange(width))})
    if isinstance(flow, Reject):
        return flow
    before = dict.fromkeys(made.name for value in flow.made if (made := linear_of(value)) is not None)
    origin, after = provenance_of(linear), tuple(reader.name for reader in flow.readers)
    dtype = hidden.meta["val"].dtype
    return HiddenChannels(tuple(before), after, hidden.name, width, dtype, origin.module, origin.location, flow)


def keep_channels(
    graph: Graph,
    block: HiddenChannels,
    kept: torch.Tensor,
    rule: str,
    constants: Mapping[str, torch.Tensor] | None = None,
    weights: Mapping[str, torch.Tensor] | None = None,
    exact: bool = True,
) -> Rewrite:
    """Rewrite ``graph`` in place so that only some channels are computed.

    Afterwards other blocks of the graph may have linears of other names: ask :func:`hidden_channels` again.

    Args:
        block: found in this graph.
        kept: the channels that stay: their numbers, in any order; not empty.
        rule: name of the pass, for the record.
        constants: float64 ``[F]`` by the name of the value that is read, such as ``{block.hidden: means}``: what a
            channel that goes is taken to be everywhere; its share goes into the bias of what reads it. By default 0.
        weights: new weights ``[N, len(kept)]`` of ``after``, columns in rising order of the channels, by the names of
            the constants that they replace; others keep the columns that they have.
        exact: whether the results are the same up to rounding; if not, the record claims no equal values.
    """
    stays = torch.zeros(block.width, dtype=torch.bool)
    stays[kept] = True
    return without_units(graph, block.flow, stays, rule, constants, weights).apply(rule, exact)
