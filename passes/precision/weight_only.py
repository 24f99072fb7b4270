"""Weights in 8 or 4 bits, inputs as they are.

before:  activation(linear(x, W, b))            x: [..., K]  W: [N, K]
after:   txgraph::weight_only_linears(x, [Q], [t], [b], activation, bits, group)
legal:   lossy: under a budget only. In 4 bits K must be a multiple of the group
pays:    where few rows use a weight, its bytes are the time: a quarter or an eighth of them are read
source:  Frantar et al. 2023 (GPTQ) for the rounding; groups as in llama.cpp's Q4_0
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.fx import Node

from txgraph.ir import GraphBuilder
from txgraph.ir.linears import Linears
from txgraph.ir.quantized import LARGEST, pack_halves, quantize_weight_grouped
from txgraph.passes.moments import shrunk_moments
from txgraph.passes.precision.rounding import clipped_scales, round_weight
from txgraph.rewrite import LinearPass, Observed, Prepared


@dataclass(frozen=True, kw_only=True)
class WeightOnly(LinearPass):
    """Quantized weights for linears with few rows.

    Attributes:
        bits: 4 or 8. group: how many numbers of a row share a scale in 4 bits, a multiple of 32.

    Raises:
        ValueError: other bits, or another group.
    """

    bits: int = 8
    group: int = 32

    def __post_init__(self) -> None:
        if self.bits not in (4, 8):
            raise ValueError(f"WeightOnly: bits={self.bits!r}, expected 4 or 8")
        if self.group <= 0 or self.group % 32:
            raise ValueError(f"WeightOnly: group={self.group!r}, expected a multiple of 32")

    by_shape: ClassVar[bool] = True

    @property
    def label(self) -> str:
        return f"int{self.bits} weights" + (f" in groups of {self.group}" if self.bits == 4 else "")

    def prepare(self, weights: Sequence[torch.Tensor], observed: Observed | None) -> Prepared | str:
        problem = self._problem(weights)
        if problem:
            return problem
        moments = None if observed is None else shrunk_moments(observed, weights[0].shape[1])
        whole = torch.cat([weight.detach() for weight in weights])  # rows are rounded alike, and by themselves
        if self.bits == 8:
            scales = clipped_scales(whole, LARGEST, None if moments is None else moments.diagonal())[:, None]
            values = round_weight(whole, scales, -LARGEST, LARGEST, moments).to(torch.int8)
        else:
            groups = whole.unflatten(1, (-1, self.group))
            scales = groups.gather(2, groups.abs().argmax(2, keepdim=True))[..., 0] / -8
            each = scales.repeat_interleave(self.group, 1)
            values = pack_halves(round_weight(whole, each, -8, 7, moments))
        rows = [len(weight) for weight in weights]
        return self._named(zip(values.split(rows), scales.split(rows), strict=True))

    def draft(self, weights: Sequence[torch.Tensor]) -> Prepared | str:
        group = self.group if self.bits == 4 else 0
        return self._problem(weights) or self._named(quantize_weight_grouped(w, self.bits, group) for w in weights)

    def _problem(self, weights: Sequence[torch.Tensor]) -> str:
        """Why there are no integers for these weights, if so."""
        columns = weights[0].shape[1]
        if self.bits == 4 and columns % self.group:
            return f"{columns} columns are no multiple of {self.group}"
        usable = all(weight.numel() and bool(weight.isfinite().all()) for weight in weights)
        return "" if usable else "a weight is empty, or not finite"

    def _named(self, pairs: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> Prepared:
        """Integers and scales of each weight, as constants."""
        return {
            name: tensor.contiguous()
            for at, (values, scales) in enumerate(pairs)
            for name, tensor in ((f"int{self.bits}_{at}", values), (f"scales_{at}", scales))
        }

    def put(self, linears: Linears, constants: Mapping[str, Node], g: GraphBuilder) -> Sequence[Node]:
        places = range(len(linears.weights))
        weights, scales = ([constants[f"{name}_{at}"] for at in places] for name in (f"int{self.bits}", "scales"))
        results = g.txgraph.weight_only_linears(
            linears.input, weights, scales, linears.biases, linears.activation, self.bits, self.group
        )
        return [g.call(operator.getitem, results, at) for at in places]
