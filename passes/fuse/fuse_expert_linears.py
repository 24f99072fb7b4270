"""Compute each expert's tokens in one product, instead of copying an expert's weight for every token.

before:  matmul(index(W, [expert]), unsqueeze(x, -1))       x: [N, K]  W: [X, M, K]  expert: [N], of each token
         matmul(unsqueeze(x, 1), index(W, [expert]))        x: [N, K]  W: [X, K, M]
after:   unsqueeze(txgraph::expert_linear(x, W, expert), -1 or 1)
legal:   experts are picked along the first axis of W, by one tensor of integers; neither the picked weights nor x
         broadcast; one dtype. On CPUs only: elsewhere it was not measured
pays:    each weight is read once, not N copies of an M x K weight written and read; costs three operator calls for
         each expert that has rows. A backend that fuses need not copy: then from 32 rows for each expert on
source:  Gale et al. 2023 (MegaBlocks), section 3
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.fx import Node

from txgraph.cost import size_hint
from txgraph.ir import GraphBuilder, same_size, type_of
from txgraph.rewrite import Accept, Match, Pattern, PatternFactory, Reject, RewritePass

# Of each expert. A compiler may read the picked weight row by row without copying it; with fewer rows that is faster:
# measured on CPUs, docs/passes.md.
_FEWEST_ROWS = 32
_LAUNCHES = 3  # for each expert: its rows are gathered, multiplied and scattered
_INTEGERS = (torch.int64, torch.int32)


@dataclass(frozen=True)
class FuseExpertLinears(RewritePass):
    """Mixture of experts, as it is exported: one product for each expert that has tokens."""

    def pattern(self, p: PatternFactory) -> Pattern:
        picked = p.aten.index(p.any("w"), p.any("indices"))
        token = p.aten.unsqueeze(p.any("x"), p.any("axis"))
        return p.either(p.aten.matmul(picked, token, name="w_first"), p.aten.matmul(token, picked))

    def check(self, match: Match) -> Accept | Reject:
        x, w, indices = match.type("x"), match.type("w"), match["indices"]
        if match.context.target.kind != "cpu":
            return Reject(f"it was not measured on {match.context.target}", match.root)
        expert = type_of(indices[0]) if len(indices) == 1 else None
        if expert is None or expert.rank != 1 or expert.dtype not in _INTEGERS or w.rank != 3:
            return Reject(f"the weights of experts are picked by {_types(indices)} from {w}", match.root)
        if x.rank != 2 or match["axis"] % 3 != (2 if "w_first" in match.bound else 1):
            return Reject(f"x is {x}, expected a row for each token", match.root)
        inner = w.shape[2 if "w_first" in match.bound else 1]
        if not same_size(x.shape[0], expert.shape[0]) or not same_size(x.shape[1], inner) or x.dtype != w.dtype:
            return Reject(f"x is {x}, the picked weights {expert.shape[0]} of {w}", match.root)
        return Accept()

    def gain(self, match: Match, made: Sequence[Node]) -> float | None:
        cost, rows, experts = match.context.cost, *(size_hint(match.type(name).shape[0]) for name in "xw")
        if cost.fuses_elementwise and rows < _FEWEST_ROWS * experts:
            return 0.0
        return match.seconds_saved(made) - _LAUNCHES * min(rows, experts) * cost.hardware.launch_seconds

    def rewrite(self, match: Match, g: GraphBuilder) -> Node:
        (expert,) = match["indices"]
        w_first = "w_first" in match.bound
        weight = match["w"] if w_first else g.aten.transpose.int(match["w"], 1, 2)
        return g.aten.unsqueeze.default(g.txgraph.expert_linear(match["x"], weight, expert), -1 if w_first else 1)


def _types(indices: Sequence[object]) -> str:
    return "[{}]".format(", ".join("all" if i is None else str(type_of(i)) for i in indices))
