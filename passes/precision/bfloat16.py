"""Linears in bfloat16, on machines that multiply it faster.

before:  activation(linear(x, W, b))                    x: [..., K]  W: [N, K]
after:   activation(float(linear(bf16(x), bf16(W))) + b)
legal:   lossy: under a budget only. Sums are in float32 within the product; bias and activation stay in float32
pays:    half of the weight's bytes, and products at twice the rate where the processor has them (AVX-512-BF16, AMX)
source:  Kalamkar et al. 2019 (A study of bfloat16 for deep learning training)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.fx import Node

from txgraph.ir import GraphBuilder
from txgraph.ir.activations import activate
from txgraph.ir.linears import Linears
from txgraph.rewrite import LinearPass, Observed, Prepared


@dataclass(frozen=True, kw_only=True)
class BFloat16(LinearPass):
    """Inputs and weights of linears with 8 significant bits."""

    by_shape: ClassVar[bool] = True

    @property
    def label(self) -> str:
        return "bfloat16"

    def prepare(self, weights: Sequence[torch.Tensor], observed: Observed | None) -> Prepared | str:
        rounded = {f"bf16_{at}": weight.detach().to(torch.bfloat16).contiguous() for at, weight in enumerate(weights)}
        finite = all(bool(weight.isfinite().all()) for weight in rounded.values())
        return rounded if finite else "a weight is not finite in bfloat16"

    def put(self, linears: Linears, constants: Mapping[str, Node], g: GraphBuilder) -> Sequence[Node]:
        narrow = g.aten._to_copy(linears.input, dtype=torch.bfloat16)
        values = []
        for at, bias in enumerate(linears.biases):
            wide = g.aten._to_copy(g.aten.linear(narrow, constants[f"bf16_{at}"]), dtype=torch.float32)
            value = wide if bias is None else g.aten.add(wide, bias)
            values.append(activate(g, value, linears.activation) if linears.activation else value)
        return values
