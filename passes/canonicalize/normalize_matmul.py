"""Write every product of batches of matrices as matmul.

before:  bmm(a, b)       mm(a, b)       baddbmm(c, a, b, beta, alpha)                einsum("bqhd,bkhd->bhqk", [a, b])
after:   matmul(a, b)    matmul(a, b)   matmul(a, b) * alpha + c * beta              matmul(permute(a), permute(b))
legal:   an einsum has two operands and contracts one axis, each of the other axes is in one operand and the result, or
         in all three. One rounding more for baddbmm
pays:    no time by itself: rules then have one form to match
source:  torch documentation of bmm, baddbmm and einsum
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Node

from txgraph.ir import GraphBuilder, arguments, type_of
from txgraph.rewrite import NodePass

_aten = torch.ops.aten


@dataclass(frozen=True)
class NormalizeMatmul(NodePass):
    """One operator for each product of matrices."""

    def rewrite(self, node: Node, g: GraphBuilder) -> Node | None:
        normal_form = _NORMAL_FORMS.get(node.target)
        return normal_form(arguments(node), g) if normal_form else None


def _product(named: dict[str, Any], g: GraphBuilder) -> Node:
    return g.aten.matmul.default(named["self"], named["mat2"])


def _sum(named: dict[str, Any], g: GraphBuilder) -> Node:
    product = g.aten.matmul.default(named["batch1"], named["batch2"])
    scaled = product if named["alpha"] == 1 else g.aten.mul.Tensor(product, named["alpha"])
    if named["beta"] == 0:  # then not even a NaN of it counts
        return scaled
    added = named["self"] if named["beta"] == 1 else g.aten.mul.Tensor(named["self"], named["beta"])
    return g.aten.add.Tensor(scaled, added)


def _einsum(named: dict[str, Any], g: GraphBuilder) -> Node | None:
    left, arrow, result = named["equation"].replace(" ", "").partition("->")
    axes = left.split(",")
    if not arrow or len(axes) != 2 or not all(a.isalpha() and len(set(a)) == len(a) for a in (*axes, result)):
        return None
    a, b = axes
    batch = [x for x in result if x in a and x in b]
    rows = [x for x in result if x in a and x not in b]
    columns = [x for x in result if x in b and x not in a]
    inner = [x for x in a if x in b and x not in result]
    if not len(rows) == len(columns) == len(inner) == 1 or len(a) != len(b) or {*a} | {*b} != {*result, *inner}:
        return None
    left_operand, right_operand = named["tensors"]
    if not _same_sizes(left_operand, a, right_operand, b, batch):
        return None  # a size of one would broadcast: einsum and matmul agree on that, the types of the views do not
    product = g.aten.matmul.default(
        _in_order(left_operand, a, [*batch, *rows, *inner], g),
        _in_order(right_operand, b, [*batch, *inner, *columns], g),
    )
    return _in_order(product, [*batch, *rows, *columns], list(result), g)


def _same_sizes(a: Node, axes_a: str, b: Node, axes_b: str, batch: list[str]) -> bool:
    shapes = [type_of(operand).shape for operand in (a, b)]  # type: ignore[union-attr]  # schema: tensors
    return all(str(shapes[0][axes_a.index(x)]) == str(shapes[1][axes_b.index(x)]) for x in batch)


def _in_order(value: Node, axes: str | list[str], wanted: list[str], g: GraphBuilder) -> Node:
    order = [list(axes).index(x) for x in wanted]
    moved = [at for at, source in enumerate(order) if at != source]
    if not moved:
        return value
    return g.aten.transpose.int(value, *moved) if len(moved) == 2 else g.aten.permute.default(value, order)


_NORMAL_FORMS: dict[Any, Callable[[dict[str, Any], GraphBuilder], Node | None]] = {
    _aten.bmm.default: _product,
    _aten.mm.default: _product,
    _aten.baddbmm.default: _sum,
    _aten.einsum.default: _einsum,
}
