"""Prune attention heads: those that add least to what the output projection gives.

before:  linear(attention(q, k, v), Wo, b)         q, k, v: linears of x, as H heads      Wo: [E, H D]
after:   the same with H' heads                                                           Wo': [E, H' D]
legal:   lossy: under a budget only. As for ``remove-dead-heads``; heads that share keys and values go together
pays:    the projections and the attention fall with H'
source:  Michel et al. 2019 (Are sixteen heads really better than one?), for pruning by importance; here the mean
         squared norm of what a head adds to the output projection; Wo' by least squares on the calibration
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from txgraph.ir import Graph
from txgraph.passes.sparsity.flow import UnitFlow
from txgraph.passes.sparsity.heads import attention_heads
from txgraph.passes.sparsity.prune import PruneUnits


@dataclass(frozen=True, kw_only=True)
class PruneHeads(PruneUnits):
    """Attention with fewer heads."""

    @property
    def label(self) -> str:
        return f"{self.fraction:.0%} of the heads pruned"

    def flows(self, graph: Graph) -> Sequence[UnitFlow]:
        return [block.flow for block in attention_heads(graph)]
