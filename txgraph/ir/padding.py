"""Padding masks among a call's inputs: which positions of a batch are tokens, and what a graph assumes of that."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch.fx import Node

from txgraph.ir.builder import GraphBuilder
from txgraph.ir.graph import Graph

# An additive mask that is no larger hides a key: it leaves it no weight, unless scores differ by thousands.
MOST_NEGATIVE_BIAS = -1e4


@dataclass(frozen=True)
class PaddingMask:
    """An input that says which positions of a batch are tokens: ``[B, S]`` or ``[B, 1, 1, S]``.

    Attributes:
        input: name of the placeholder.
        valid: what is 0 is padding, or the other way round (as in ``src_key_padding_mask``).
        values: ``"binary"``: 0 and 1, or boolean; ``"additive"``: 0, or hides a key when it is added to a score.
    """

    input: str
    valid: Literal["nonzero", "zero"]
    values: Literal["binary", "additive"] = "binary"

    def tokens(self, mask: torch.Tensor) -> torch.Tensor:
        """Where there are tokens: boolean ``[B, S]``."""
        flat = mask.reshape(mask.shape[0], mask.shape[-1])
        return flat != 0 if self.valid == "nonzero" else flat == 0

    def build_tokens(self, g: GraphBuilder, mask: Node) -> Node:
        """:meth:`tokens` as nodes of a graph."""
        if mask.meta["val"].ndim > 2:
            mask = g.aten.reshape(mask, [g.size(mask, 0), g.size(mask, -1)])
        return g.aten.ne.Scalar(mask, 0) if self.valid == "nonzero" else g.aten.eq.Scalar(mask, 0)

    def is_one(self, mask: torch.Tensor) -> bool:
        """Whether the values are such as this class describes."""
        if mask.dtype is torch.bool or not mask.numel():
            return True
        other = mask == 1 if self.values == "binary" else mask <= MOST_NEGATIVE_BIAS
        return bool(((mask == 0) | other).all())


# What a graph may need of the tokens [B, S] of a call, and what is said where that does not hold.
_HELD: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "first": lambda tokens: tokens[:, 0],
    "last": lambda tokens: tokens[:, -1],
    "some": lambda tokens: tokens.any(1),
    "left": lambda tokens: tokens[:, 1:] <= tokens[:, :-1],
}
_BROKEN = {
    "first": "the first position of a row is padding, and is used",
    "last": "the last position of a row is padding, and is used",
    "some": "every position of a row is padding, and is used",
    "left": "a row has padding before a token, and only behind the last one it is left out in eager",
}


@dataclass(frozen=True)
class PaddingAssumption:
    """What a graph takes for granted about the padding of a call.

    Attributes:
        mask: the padding mask.
        density: the share of positions that are tokens is at most this, and there are two at least.
        needs: of each row, the ``"first"`` or the ``"last"`` position must be a token, or ``"some"`` position, or what
            is ``"left"`` of a token, too.
        holds: whether the graph is for calls of which this is true, or for the others.
    """

    mask: PaddingMask
    density: float
    needs: frozenset[str] = frozenset()
    holds: bool = True

    def accepts(self, mask: torch.Tensor) -> bool:
        """Whether the graph is for a call with this mask."""
        return (not self.broken(mask)) is self.holds

    def broken(self, mask: torch.Tensor) -> str:
        """What is not true of a mask; an empty text if all is."""
        tokens = self.mask.tokens(mask)
        count = int(tokens.count_nonzero())
        if not 2 <= count <= self.density * tokens.numel():
            return f"{count} of the {tokens.numel()} positions are tokens"
        if not self.mask.is_one(mask):
            return "the mask has values that are neither 0 nor 1, nor hide a key"
        for need in sorted(self.needs):
            if not bool(_HELD[need](tokens).all()):
                return _BROKEN[need]
        return ""


@dataclass(frozen=True)
class ZeroedOutput:
    """An output whose values at padding are zeros, as the caller asked for.

    Attributes:
        output: its place among the graph's outputs. axes: its batch and its sequence axis.
    """

    output: int
    mask: PaddingMask
    axes: tuple[int, int]

    def applied(self, value: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """The value with zeros at padding."""
        tokens = self.mask.tokens(mask)
        batch, sequence = self.axes
        shape = [1] * value.ndim
        shape[batch], shape[sequence] = tokens.shape
        return value.masked_fill(~(tokens if batch < sequence else tokens.T).reshape(shape), 0)

    def build(self, g: GraphBuilder, value: Node, tokens: Node) -> Node:
        """:meth:`applied` as nodes of a graph."""
        batch, sequence = self.axes
        padding = g.aten.logical_not(tokens)
        if batch > sequence:
            padding = g.aten.transpose.int(padding, 0, 1)
        for axis in range(value.meta["val"].ndim):
            if axis not in self.axes:
                padding = g.aten.unsqueeze(padding, axis)
        return g.aten.masked_fill.Scalar(value, padding, 0)


def masks_of(graph: Graph, tensors: Iterable[torch.Tensor]) -> dict[str, torch.Tensor]:
    """Copies of the inputs of a call that have the form of a padding mask, by name.

    Args:
        tensors: of the call, in the order of the graph's inputs.
    """
    named = zip(graph.inputs, tensors, strict=True)
    return {str(node.target): tensor.detach().clone() for node, tensor in named if may_be_mask(tensor)}


def may_be_mask(tensor: torch.Tensor) -> bool:
    """Whether an input has the form of a padding mask."""
    return tensor.ndim in (2, 4) and all(str(size) == "1" for size in tensor.shape[1:-1])


def with_zeros(
    values: Sequence[object], outputs: Sequence[ZeroedOutput], masks: Mapping[str, torch.Tensor]
) -> list[object]:
    """Outputs with zeros at padding, where the contract says so."""
    results = list(values)
    for each in outputs:
        value = results[each.output]
        assert isinstance(value, torch.Tensor), "only tensors have positions"
        results[each.output] = each.applied(value, masks[each.mask.input])
    return results
