"""Remove operators whose results are not used.

before:  y = f(x), never used
after:   nothing
legal:   the operator writes to nothing, draws no random number and asserts nothing
pays:    the whole operator
source:  Aho, Lam, Sethi, Ullman 2006, section 9.1.6
"""

from __future__ import annotations

from dataclasses import dataclass

from txgraph.ir import Graph, is_impure
from txgraph.rewrite import Pass, PassContext, Rewrite


@dataclass(frozen=True)
class EliminateDeadCode(Pass):
    """Drop what no output depends on."""

    def run(self, graph: Graph, context: PassContext) -> list[Rewrite]:
        rewrites = []
        for node in reversed(graph.calls()):
            if not node.users and not is_impure(node) and context.permits(self, node):
                rewrites.append(Rewrite.of(self.name, [node]))
                graph.fx.erase_node(node)
        return rewrites
