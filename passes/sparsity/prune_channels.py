"""Prune hidden channels of feed-forward blocks: those that add least to what comes out.

before:  linear(act(linear(x, W1, b1)), W2, b2)            x: [..., K]  W1: [F, K]  W2: [N, F]
after:   linear(act(linear(x, W1', b1')), W2', b2)         W1': [F', K]  W2': [N, F']
legal:   lossy: under a budget only. As for ``remove-dead-channels``: the weights are constants that nothing else uses,
         the hidden values are not used elsewhere, gates and views may stand between
pays:    all work of the block falls with F', in dense products that are fast everywhere
source:  Sun et al. 2023 (Wanda), equation 1, for the importance ``E[h_j^2] |W2[:, j]|^2`` of a channel; W2' by least
         squares on the calibration (Frantar & Alistarh 2023, SparseGPT, section 3.1)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from txgraph.ir import Graph
from txgraph.passes.sparsity.channels import hidden_channels
from txgraph.passes.sparsity.flow import UnitFlow
from txgraph.passes.sparsity.prune import PruneUnits


@dataclass(frozen=True, kw_only=True)
class PruneChannels(PruneUnits):
    """Narrower feed-forward blocks."""

    @property
    def label(self) -> str:
        return f"{self.fraction:.0%} of the channels pruned"

    def flows(self, graph: Graph) -> Sequence[UnitFlow]:
        return [block.flow for block in hidden_channels(graph)]
