"""Linears in int8: weights by output channel, inputs by row, at each call.

before:  activation(linear(x, W, b))            x: [..., K]  W: [N, K]
after:   q, s = txgraph::quantize_rows(x, d);  txgraph::int8_linears(q, s, [Q], [t], [b], activation)
legal:   lossy: under a budget only
pays:    a quarter of the weight's bytes, and 8-bit products; quantizing costs 1 read of x and 1 write of a quarter.
         ``d`` takes scale from channels of x that are larger than others into the weight, where it costs less
source:  Xiao et al. 2023 (SmoothQuant), eq. 4, for d; :mod:`txgraph.passes.precision.rounding` for Q and t
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.fx import Node

from txgraph.ir import GraphBuilder
from txgraph.ir.linears import Linears
from txgraph.ir.quantized import LARGEST, quantize_weight
from txgraph.passes.moments import shrunk_moments
from txgraph.passes.precision.rounding import clipped_scales, round_weight
from txgraph.rewrite import LinearPass, Observed, Prepared


@dataclass(frozen=True, kw_only=True)
class Int8(LinearPass):
    """Dynamic quantization of linears to 8 bits.

    Attributes:
        migration: how much of a channel's scale moves from the inputs to the weight, 0 to 1; needs a calibration.

    Raises:
        ValueError: ``migration`` is not between 0 and 1.
    """

    migration: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.migration <= 1:
            raise ValueError(f"Int8: migration={self.migration!r}, expected 0 to 1")

    by_shape: ClassVar[bool] = True

    @property
    def label(self) -> str:
        return "int8" + (f", migration {self.migration:g}" if self.migration else "")

    def prepare(self, weights: Sequence[torch.Tensor], observed: Observed | None) -> Prepared | str:
        problem = _problem(weights)
        if problem:
            return problem
        prepared = {}
        moments = None if observed is None else shrunk_moments(observed, weights[0].shape[1])
        divisor = self.divisor(weights, observed)
        if divisor is not None and moments is not None:
            prepared["divisor"] = divisor
            moments = moments / divisor.double() / divisor.double()[:, None]
            weights = [weight * divisor for weight in weights]
        importance = None if moments is None else moments.diagonal()
        whole = torch.cat([weight.detach() for weight in weights])  # rows are rounded alike, and by themselves
        scales = clipped_scales(whole, LARGEST, importance)
        values = round_weight(whole, scales[:, None], -LARGEST, LARGEST, moments).to(torch.int8)
        return {**prepared, **_by_weight(weights, values, scales)}

    def draft(self, weights: Sequence[torch.Tensor]) -> Prepared | str:
        problem = _problem(weights)
        if problem:
            return problem
        pairs = [quantize_weight(weight) for weight in weights]
        prepared = _by_weight(weights, *(torch.cat(each) for each in zip(*pairs, strict=True)))
        return {**prepared, "divisor": torch.ones(weights[0].shape[1])} if self.migration else prepared

    def divisor(self, weights: Sequence[torch.Tensor], observed: Observed | None) -> torch.Tensor | None:
        """What moves from the input of some linears to their weights, ``[K]``."""
        if observed is None or not self.migration:
            return None
        largest = torch.cat([weight.detach() for weight in weights]).abs().amax(0)
        return _divisor(observed.largest, largest, self.migration)

    def put(self, linears: Linears, constants: Mapping[str, Node], g: GraphBuilder) -> Sequence[Node]:
        quantized = g.txgraph.quantize_rows(linears.input, constants.get("divisor"))
        values, scales = (g.call(operator.getitem, quantized, at) for at in range(2))
        places = range(len(linears.weights))
        weights, weight_scales = ([constants[f"{name}_{at}"] for at in places] for name in ("int8", "scales"))
        results = g.txgraph.int8_linears(values, scales, weights, weight_scales, linears.biases, linears.activation)
        return [g.call(operator.getitem, results, at) for at in places]


def _problem(weights: Sequence[torch.Tensor]) -> str:
    """Why there are no integers for these weights, if so."""
    if not all(weight.numel() for weight in weights):
        return "it has no weights"
    return "" if all(bool(weight.isfinite().all()) for weight in weights) else "a weight is not finite"


def _by_weight(weights: Sequence[torch.Tensor], values: torch.Tensor, scales: torch.Tensor) -> Prepared:
    """The rows of several weights, with their scales, as constants of their own."""
    rows = [len(weight) for weight in weights]
    pairs = zip(values.split(rows), scales.split(rows), strict=True)
    return {
        name: part.contiguous()
        for at, (integers, factors) in enumerate(pairs)
        for name, part in ((f"int8_{at}", integers), (f"scales_{at}", factors))
    }


def _divisor(inputs: torch.Tensor, weights: torch.Tensor, migration: float) -> torch.Tensor:
    """Of each channel, from the largest magnitudes of inputs and weights ``[K]``; 1 where one of them is nothing."""
    usable = (inputs > 0) & (weights > 0)
    divisor = torch.where(usable, inputs.pow(migration) / weights.pow(1 - migration), 1.0)
    return divisor / divisor.log().mean().exp()  # about 1: scales stay far from the ends of float32
