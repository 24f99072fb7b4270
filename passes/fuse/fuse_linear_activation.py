"""Mark a linear and the activation after it as one, where the backend computes the two together.

before:  gelu(linear(x, w, b))                          x: [..., K]  w: [N, K]  b: [N]
after:   txgraph::linear_activation(x, w, b, "gelu")
legal:   the weight has two axes of floats and is a constant, the transpose of one, or fake-quantized; the value before
         the activation is not used elsewhere
pays:    one write and one read of [..., N] (bytes) less, in backends with such a kernel; elsewhere not applied
source:  oneDNN documentation, post-ops fusion
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.fx import Node

from txgraph.ir import GraphBuilder, packet_of
from txgraph.rewrite import Accept, Match, Pattern, PatternFactory, Reject, RewritePass

_FAKE = torch.ops.txgraph.fake_quantize_weight.default


@dataclass(frozen=True)
class FuseLinearActivation(RewritePass):
    """linear + relu, gelu, silu, tanh, sigmoid or quick_gelu."""

    @property
    def pays(self) -> bool:
        return True

    def pattern(self, p: PatternFactory) -> Pattern:
        linear = p.aten.linear(p.any("x"), p.any("w"), p.any("b"))
        plain = (p.aten.relu, p.aten.silu, p.aten.tanh, p.aten.sigmoid, p.txgraph.quick_gelu)
        return p.either(p.aten.gelu(linear, approximate=p.any("approximate")), *(f(linear) for f in plain))

    def check(self, match: Match) -> Accept | Reject:
        weight = match["w"].args[0] if match["w"].target is torch.ops.aten.transpose.int else match["w"]
        if match.graph.constant(weight) is None and weight.target is not _FAKE:
            return Reject(f"the weight %{weight.name} is computed by the graph", weight)
        if match.type("w").rank != 2:
            return Reject(f"the weight is {match.type('w')}, expected two axes", match.root)
        if not match.type("w").dtype.is_floating_point:
            return Reject(f"the weight is {match.type('w')}, expected floats", match.root)
        name = _activation(match)
        if name not in match.context.fused_activations:
            return Reject(f"the backend has no linear with {name} for {match.context.target}", match.root)
        return Accept()

    def rewrite(self, match: Match, g: GraphBuilder) -> Node:
        return g.txgraph.linear_activation(match["x"], match["w"], match["b"], _activation(match))


def _activation(match: Match) -> str:
    """Its name in ``txgraph.ir.ops.ACTIVATIONS``."""
    packet = packet_of(match.root)
    assert packet is not None, "the pattern's root is an operator"
    name = packet.__name__
    return "gelu_tanh" if name == "gelu" and match["approximate"] == "tanh" else name
