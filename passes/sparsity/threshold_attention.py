"""Leave out of attention what its largest weights dwarf: of these keys neither exponentials nor sums are computed.

before:  scaled_dot_product_attention(q, k, v, ...)
after:   txgraph::threshold_attention(q, k, v, ..., threshold)      weights below threshold times the query's largest: 0
legal:   lossy: under a budget only. Attention in float32 on CPUs, of 256 keys and 8 queries at least
pays:    up to half of the time, as scores are still computed; where few keys count: measured on calibration values
source:  Li et al. 2022 (LeOPArd), for thresholds on scores, which are learned there; BLASST (arXiv 2512.12087), for one
         relative to the largest score so far, and blocks of keys
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.fx import Node

from txgraph.ir import GraphBuilder, arguments
from txgraph.passes.sparsity.attention import DENSE, AttentionPass, keys_of

_FEWEST_KEYS, _FEWEST_QUERIES = 256, 8  # below it there is little to save; keys are left out for 8 queries at once


@dataclass(frozen=True, kw_only=True)
class ThresholdAttention(AttentionPass):
    """Attention without small weights.

    Attributes:
        threshold: relative to the largest weight of a query, above 0 and at most 0.5.

    Raises:
        ValueError: ``threshold`` is something else.
    """

    by_value = True

    threshold: float

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 0.5:
            raise ValueError(f"ThresholdAttention: threshold={self.threshold!r}, expected above 0, and 0.5 at most")

    @property
    def label(self) -> str:
        return f"attention above {self.threshold:g} of the largest"

    def fits(self, node: Node) -> bool:
        named = arguments(node)
        if node.target is not DENSE or keys_of(node) < _FEWEST_KEYS:
            return False
        mask = named.get("attn_mask")
        if mask is not None and mask.meta["val"].dtype not in (torch.float32, torch.bool):
            return False
        queries = named["query"].meta["val"].shape[2]
        return not isinstance(queries, int) or queries >= _FEWEST_QUERIES

    def put(self, node: Node, g: GraphBuilder) -> Node:
        named = arguments(node)
        taken = [named[each] for each in ("query", "key", "value", "attn_mask", "is_causal", "scale", "enable_gqa")]
        return g.txgraph.threshold_attention(*taken, self.threshold)
