"""A pass that is wrong: it is taken back, and named with the line of the model it was applied to.

python examples/find_wrong_rewrite.py
"""
# ruff: noqa: D102  # what the methods of a RewritePass do is documented there

import torch
from torch import nn

import txgraph
from txgraph.rewrite import Match, Pattern, PatternFactory


class CheaperGelu(txgraph.RewritePass):
    """``gelu(x) -> gelu(x, approximate="tanh")``: another function."""

    def pattern(self, p: PatternFactory) -> Pattern:
        return p.aten.gelu(p.any("x"))

    def rewrite(self, match: Match, g: txgraph.ir.GraphBuilder) -> torch.fx.Node:
        return g.aten.gelu(match["x"], approximate="tanh")


def main() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 64)).eval(), torch.randn(8, 64)
    pipeline = txgraph.default_pipeline().append(CheaperGelu())

    print("== the model is right all the same: the pass is rolled back")
    fast = txgraph.optimize(model, args=(x,), passes=pipeline, backend="reference")
    torch.testing.assert_close(fast(x), model(x))
    print(fast.report)

    print("\n== which rewrite, where")
    (culprit,) = txgraph.bisect(model, (x,), passes=pipeline, backend="reference")
    print(culprit)
    assert (culprit.stage, culprit.module) == ("cheaper-gelu", "1")

    print("\n== the rule by itself")
    try:
        txgraph.check(CheaperGelu())
    except txgraph.CheckFailed as error:
        print(error)
    else:
        raise AssertionError("it was not refused")


if __name__ == "__main__":
    main()
