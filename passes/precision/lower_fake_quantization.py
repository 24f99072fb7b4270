"""Linears that were trained with fake quantization become quantized linears.

before:  activation(linear(txgraph::fake_quantize_rows(x, d), txgraph::fake_quantize_weight(W, e), b))
after:   q, s = txgraph::quantize_rows(x, d);  txgraph::int8_linears(q, s, [Q], [t], [b], activation)
         several linears of the same rows are one operator. In 4 bits, or where x is not quantized,
         txgraph::weight_only_linears(x, [Q], [t], [b], activation). Other uses of a fake-quantized weight: a constant
legal:   exact: the integers and scales are those that the fake operators multiply. The weight is a finite float32
         constant that no call changes
pays:    a quarter or an eighth of the weight's bytes, and 8-bit products; without, quantizing is only work
source:  Jacob et al. 2018, section 3: inference of what was trained so
"""

from __future__ import annotations

import operator
from collections import defaultdict
from dataclasses import dataclass

import torch
from torch.fx import Node

from txgraph.ir import Graph, GraphBuilder, arguments
from txgraph.ir.fake_quantized import fake_quantize_weight, quantized_weight
from txgraph.ir.linears import Linears, frozen_weight, stored_in
from txgraph.rewrite import Pass, PassContext, Rewrite, replace

_ROWS = torch.ops.txgraph.fake_quantize_rows.default
_WEIGHT = torch.ops.txgraph.fake_quantize_weight.default
_Form = tuple[bool, str, int, int]  # whether rows are quantized, the activation, bits and group


@dataclass(frozen=True)
class LowerFakeQuantization(Pass):
    """Fake quantization made real."""

    def run(self, graph: Graph, context: PassContext) -> list[Rewrite]:
        rewrites = []
        groups: dict[tuple[Node, _Form], list[Node]] = defaultdict(list)
        for node in graph.calls():
            form = self._form(graph, node, context)
            if form is not None:
                groups[node.args[0], form].append(node)  # type: ignore[index]  # schema: a tensor
        for (source, form), group in groups.items():
            if context.permits(self, group[0]):
                rewrites.append(self._join(graph, source, form, group))
        for node in graph.calls():
            if (
                node.target is _WEIGHT
                and node.users
                and _parts(graph, node) is not None
                and context.permits(self, node)
            ):
                rewrites.append(self._fold(graph, node))
        return rewrites

    def _form(self, graph: Graph, node: Node, context: PassContext) -> _Form | None:
        """What becomes of a node, if it is a linear with a fake-quantized weight."""
        linears = Linears.of(node)
        if linears is None or len(linears.weights) > 1 or linears.weights[0].target is not _WEIGHT:
            return None
        weight, bias = linears.weights[0], linears.biases[0]
        parts = _parts(graph, weight)
        if parts is None:
            context.decline(self, node, "its weight is no finite float32 constant of its own", weight)
            return None
        if bias is not None and graph.frozen(bias) is None:
            context.decline(self, node, "its bias is computed by the graph", bias)
            return None
        bits, group = parts[2:]
        return linears.input.target is _ROWS and bits == 8, linears.activation, bits, group

    def _join(self, graph: Graph, source: Node, form: _Form, group: list[Node]) -> Rewrite:
        in_rows, activation, bits, width = form
        g = GraphBuilder(graph, group[0], like=group, made_by=self.name)
        values, scales, biases = [], [], []
        for node in group:
            linears = Linears.of(node)
            assert linears is not None, "found by it"
            weight, bias = linears.weights[0], linears.biases[0]
            parts = _parts(graph, weight)
            assert parts is not None, "asked before"
            name = str(stored_in(weight.args[0]).target)  # type: ignore[arg-type]  # schema: a tensor
            integers, steps = quantized_weight(*parts)
            values.append(g.constant(f"{name}_int{bits}", integers, _sources(weight)))
            scales.append(g.constant(f"{name}_scales", steps[:, 0] if in_rows else steps, _sources(weight)))
            if bias is not None and bias > group[0]:
                group[0].prepend(bias)
            biases.append(bias)
        if in_rows:
            rows = g.txgraph.quantize_rows(source.args[0], source.args[1])
            read = [g.call(operator.getitem, rows, at) for at in range(2)]
            results = g.txgraph.int8_linears(*read, values, scales, biases, activation)
        else:
            results = g.txgraph.weight_only_linears(source, values, scales, biases, activation, bits, width)
        pieces = {node: g.call(operator.getitem, results, at) for at, node in enumerate(group)}
        inner = [source] * in_rows + [Linears.of(node).weights[0] for node in group]  # type: ignore[union-attr]  # as above
        return replace(self.name, pieces, g.made, dict.fromkeys(inner))

    def _fold(self, graph: Graph, node: Node) -> Rewrite:
        g = GraphBuilder(graph, node, made_by=self.name)
        parts = _parts(graph, node)
        assert parts is not None, "asked before"
        folded = g.constant(f"folded_{node.name}", fake_quantize_weight(*parts), _sources(node))
        return replace(self.name, {node: folded}, g.made)


def _parts(graph: Graph, node: Node) -> tuple[torch.Tensor, torch.Tensor | None, int, int] | None:
    """The arguments of a fake-quantized weight, if they are finite constants."""
    named = arguments(node)
    weight = frozen_weight(graph, named["weight"])
    divisor = None if named["divisor"] is None else graph.frozen(named["divisor"])
    if weight is None or weight.dtype is not torch.float32 or (divisor is None) != (named["divisor"] is None):
        return None
    finite = bool(weight.isfinite().all()) and (divisor is None or bool(divisor.isfinite().all()))
    return (weight, divisor, named["bits"], named["group"]) if finite else None


def _sources(node: Node) -> list[str]:
    """The constants that a fake-quantized weight is made from."""
    return [str(stored_in(source).target) for source in node.all_input_nodes]
