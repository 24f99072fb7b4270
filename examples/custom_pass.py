"""Write a pass of one's own: the rewrite is checked against eager like every built-in one.

python examples/custom_pass.py
"""
# ruff: noqa: D102, D415  # what the methods of a RewritePass do is documented there

import torch

import txgraph
from txgraph import Accept, RewritePass


# fmt: off
class FuseDoubleNegation(RewritePass):
    """neg(neg(x)) -> x"""
    def pattern(self, p):
        return p.aten.neg(p.aten.neg(p.any("x")))
    def check(self, match):
        return Accept()
    def rewrite(self, match, g):
        return match["x"]
# fmt: on


class Model(torch.nn.Module):
    """Negates twice, in two different places."""

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(16, 16)

    def forward(self, x):
        negative = -self.linear(x)
        return torch.relu(-negative)


def main():
    torch.manual_seed(0)
    model, x = Model().eval(), torch.randn(4, 16)

    # also insert_before(name, pass), insert_after(name, pass) and without(name)
    pipeline = txgraph.default_pipeline().append(FuseDoubleNegation())
    fast = txgraph.optimize(model, args=(x,), passes=pipeline)

    print(f"== before\n{fast.graph_before}\n\n== after\n{fast.graph_after}\n\n== report\n{fast.report}\n")
    for rewrite in fast.report.to_dict()["rewrites"]:
        print(f"{rewrite['rule']}: {', '.join(rewrite['removed'])} at {rewrite['location']}")

    (record,) = [p for p in fast.report.to_dict()["passes"] if p["name"] == "fuse-double-negation"]
    assert (record["status"], record["rewrites"]) == ("applied", 1)
    assert "neg" not in str(fast.graph_after)
    torch.testing.assert_close(fast(x), model(x))


if __name__ == "__main__":
    main()
