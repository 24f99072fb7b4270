"""Let outputs be zero at padding, as the caller asked for by ``padding="zeros"``.

before:  an output ``[B, S, ...]`` whose values at padding nobody uses
after:   ``masked_fill(output, padding, 0)``
legal:   by the caller's word only; the output's batch and sequence are those of the mask, proven by following them
         through token-wise operators. Checked against eager's outputs with zeros at the same places
pays:    by itself nothing: it sets ``remove-padding`` free
source:  the outputs of torch's ``nn.TransformerEncoder`` on nested tensors are padded by zeros, too
"""

from __future__ import annotations

from dataclasses import dataclass

from torch.fx import Node

from txgraph.ir import Graph, GraphBuilder
from txgraph.ir.padding import ZeroedOutput
from txgraph.passes.padding.attention_masks import padded_attentions
from txgraph.passes.padding.token_flow import TokenFlow
from txgraph.rewrite import Pass, PassContext, Rewrite


@dataclass(frozen=True)
class ZeroPadding(Pass):
    """Put zeros at the padding of every output that has tokens."""

    def run(self, graph: Graph, context: PassContext) -> list[Rewrite]:
        rewrites = []
        for attention in list(padded_attentions(graph)):
            flow = TokenFlow.of(graph, attention)
            for node in dict.fromkeys(n for n in graph.outputs[len(graph.mutations) :] if isinstance(n, Node)):
                if node in flow.layouts and context.permits(self, node):
                    rewrites += self._zero(graph, flow, node)
        if not rewrites:
            why = "no output has the batch and sequence of an input that is a padding mask"
            context.advice.append(f'padding="zeros" changes nothing: {why}')
        return rewrites

    def _zero(self, graph: Graph, flow: TokenFlow, node: Node) -> list[Rewrite]:
        layout, mask = flow.layouts[node], flow.attention.formulas.mask
        batch, sequence = layout.axis_of("batch"), layout.axis_of("sequence")
        if batch is None or sequence is None:
            return []
        g = GraphBuilder(graph, graph.output, like=[node], made_by=self.name)
        places = [at for at, n in enumerate(graph.outputs) if n is node and at >= len(graph.mutations)]
        tokens = mask.build_tokens(g, next(n for n in graph.inputs if str(n.target) == mask.input))
        contract = [ZeroedOutput(at, mask, (batch, sequence)) for at in places]
        new = contract[0].build(g, node, tokens)
        outputs = list(graph.outputs)
        for at in places:
            outputs[at] = new
        graph.output.args = (tuple(outputs),)
        graph.zeroed = (*graph.zeroed, *contract)
        return [Rewrite.of(self.name, [node], g.made)]
