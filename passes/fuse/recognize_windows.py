"""Recognise attention masks by which each query sees keys side by side: sliding windows, bands, chunks.

before:  scaled_dot_product_attention(q, k, v, mask)       mask: ``q - 256 < k <= q``, ``k // 64 == q // 64``, ...
after:   txgraph::window_attention(q, k, v, first, end, 0)  first, end: [S], the keys that each query sees
legal:   the mask's formula in its indices is proven from the data flow, for every input and size, and its bounds can be
         computed from the queries' indices and the sizes. An additive mask adds 0 or hides, by -inf or the dtype's
         lowest number; then every query sees a key. No dropout
pays:    the mask's S x T elements are neither made nor read, and keys outside of a block's windows cost nothing:
         float32 on CPUs only, where a kernel takes it
source:  Beltagy et al. 2020 (Longformer), section 3.1; Jiang et al. 2023 (Mistral 7B), section 2
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import reduce
from typing import Any

import sympy
import torch
from torch.fx import Node

from txgraph.ir import Graph, GraphBuilder, arguments, type_of
from txgraph.ir.formulas import Expression
from txgraph.ir.index_expressions import IndexExpressions
from txgraph.ir.masks import every_row_sees_a_key, lowest, visible_keys, window_of_mask
from txgraph.ir.windows import EVERYTHING, QUERY, Window
from txgraph.rewrite import Pass, PassContext, Reject, Rewrite, replace

_attention = torch.ops.aten.scaled_dot_product_attention.default


@dataclass(frozen=True)
class RecognizeWindows(Pass):
    """Attention that is told which keys each query sees."""

    @property
    def pays(self) -> bool:
        return True

    def run(self, graph: Graph, context: PassContext) -> list[Rewrite]:
        expressions = IndexExpressions(graph)
        rewrites = []
        for node in graph.calls():
            if node.target is not _attention or not isinstance(arguments(node)["attn_mask"], Node):
                continue
            window = _window_of(node, expressions, context)
            if isinstance(window, Reject):
                context.decline(self, node, window.reason, window.node)
            elif context.permits(self, node):
                rewrite = self._rewrite(graph, node, window)
                if isinstance(rewrite, Rewrite):
                    rewrites.append(rewrite)
                else:
                    context.decline(self, node, rewrite.reason, rewrite.node)
        if rewrites:
            graph.constants.observe(expressions.used)
        return rewrites

    def _rewrite(self, graph: Graph, node: Node, window: Window) -> Rewrite | Reject:
        named = arguments(node)
        g = GraphBuilder(graph, node, made_by=self.name)
        bounds = _Bounds(g, node)
        first = bounds.joined(window.first, g.aten.maximum.default, 0)
        end = bounds.joined(window.end, g.aten.minimum.default, g.size(named["key"], 2))
        if first is None or end is None:
            g.discard()
            return Reject(f"a bound is no sum of indices and sizes: {window}", named["attn_mask"])
        operands = (named[each] for each in ("query", "key", "value"))
        new = g.txgraph.window_attention(*operands, first, end, 0, named["scale"], named["enable_gqa"])
        return replace(self.name, {node: new}, g.made)


def _window_of(node: Node, expressions: IndexExpressions, context: PassContext) -> Window | Reject:
    """Which keys each query of an attention sees, or why that is not known."""
    named = arguments(node)
    query, key, mask = (type_of(named[each]) for each in ("query", "key", "attn_mask"))
    assert query is not None, "a tensor"
    assert key is not None, "a tensor"
    assert mask is not None, "a tensor"
    if context.target.kind != "cpu" or query.dtype is not torch.float32:
        return Reject(f"on {context.target} no kernel leaves out keys of {query}", node)
    if query.rank != 4 or named["is_causal"] or named["dropout_p"]:
        return Reject("it is not of [B, H, S, D], by a mask alone", node)
    formula = expressions.of(named["attn_mask"])
    if formula is None:
        return Reject("the mask is not a function of its indices alone", named["attn_mask"])
    window = window_of_mask(formula, mask.dtype, lowest(mask.dtype), (query.shape[2], key.shape[2]))
    if window is None:
        return Reject(f"the mask does not show keys side by side: {formula}", named["attn_mask"])
    if window == EVERYTHING:
        return Reject("the mask hides nothing", named["attn_mask"])
    visible = visible_keys(formula, mask.dtype, lowest(mask.dtype))
    if mask.dtype is not torch.bool and not every_row_sees_a_key(visible, mask):
        return Reject(f"some query may see no key, which is not 0 in eager: {formula}", named["attn_mask"])
    return window


class _Bounds:
    """Computes bounds of windows as int64 ``[S]``, for one attention."""

    def __init__(self, g: GraphBuilder, attention: Node) -> None:
        self._g = g
        query = arguments(attention)["query"]
        device = query.meta["val"].device
        # Sizes of inputs first: what is computed from them is the same in all layers.
        values = [*g.graph.inputs, *(arguments(attention)[each] for each in ("query", "key"))]
        self._sizes: dict[Expression, tuple[Node, int]] = {}
        for value in (each for each in values if type_of(each) is not None):
            for axis, size in enumerate(value.meta["val"].shape):
                if isinstance(size, torch.SymInt):
                    self._sizes.setdefault(size.node.expr, (value, axis))
        queries = query.meta["val"].shape[2]
        self._options = {"dtype": torch.int64, "device": device, "pin_memory": False}
        self._count = queries if isinstance(queries, int) else g.size(*self._sizes[queries.node.expr])
        self._index = g.aten.arange.default(self._count, **self._options)

    def joined(self, bounds: Collection[Expression], join: Callable[[Node, Node], Node], default: Any) -> Node | None:
        """One bound for several; ``None`` if one of them cannot be computed."""
        values = [self._computed(bound) for bound in sorted(bounds, key=str)]
        if not values:
            return self._g.aten.full.default([self._count], default, **self._options)
        return None if None in values else reduce(join, values)  # type: ignore[arg-type]  # nodes

    def _computed(self, formula: Expression) -> Node | None:
        total: Node | None = None
        numbers: list[tuple[int | Node, int]] = []  # with their factors: added at the end
        for term in sympy.Add.make_args(sympy.expand(formula)):
            factor, body = term.as_coeff_Mul()
            if not factor.is_Integer:
                return None
            if body == 1:
                numbers.append((int(factor), 1))
            elif body in self._sizes:
                numbers.append((self._g.size(*self._sizes[body]), int(factor)))
            else:
                value = self._index if body == QUERY else self._quotient(body)
                if value is None:
                    return None
                value = value if factor == 1 else self._g.aten.mul.Tensor(value, int(factor))
                total = value if total is None else self._g.aten.add.Tensor(total, value)
        if total is None:
            total = self._g.aten.full.default([self._count], 0, **self._options)
        for number, factor in numbers:
            total = self._g.aten.add.Tensor(total, number, alpha=factor)
        return total

    def _quotient(self, formula: Expression) -> Node | None:
        """``floor(sum / divisor)``."""
        if not isinstance(formula, sympy.floor):
            return None
        inside = sympy.expand(formula.args[0])
        divisor = sympy.ilcm(1, *(factor.q for factor in inside.as_coefficients_dict().values()))
        divided = self._computed(divisor * inside)
        return None if divided is None else self._g.aten.floor_divide.default(divided, int(divisor))
