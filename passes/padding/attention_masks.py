"""Which attentions hide the keys that are padding, proven from how their masks are computed from an input.

A mask's formula in its own indices (:mod:`txgraph.ir.index_expressions`) contains the input as an unknown function of
batch and position. It hides padding if it hides key ``k`` of row ``b`` wherever that function says so, whatever else
it depends on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import sympy
import torch
from torch.fx import Node

from txgraph.ir import Graph, arguments, type_of
from txgraph.ir.formulas import Expression, is_boolean
from txgraph.ir.index_expressions import IndexExpressions, axis_symbol
from txgraph.ir.masks import kind_of_mask
from txgraph.ir.padding import MOST_NEGATIVE_BIAS, PaddingMask, may_be_mask

_aten = torch.ops.aten
ATTENTION = _aten.scaled_dot_product_attention.default
# That the tokens of each row come first: what ``txgraph::is_left_aligned`` gives of the mask in question.
LEFT_ALIGNED = sympy.Ne(sympy.Symbol("left_aligned", integer=True), 0)


@dataclass(frozen=True)
class MaskFormulas:
    """Formulas in which one input is an unknown function of batch and position."""

    mask: PaddingMask
    expressions: IndexExpressions
    function: Any

    def of(self, value: Any, batch: int, sequence: int, valid: bool) -> Expression | None:
        """The formula of a value where the token at these axes, counted from the right, is valid, or padding."""
        formula = self.expressions.of(value)
        return None if formula is None else self.where(formula, batch, sequence, valid)

    def where(self, formula: Expression, batch: int, sequence: int, valid: bool) -> Expression:
        """A formula where the token at these axes is valid, or padding."""
        nonzero = valid is (self.mask.valid == "nonzero")
        return formula.subs(self.function(axis_symbol(batch), axis_symbol(sequence)), int(nonzero))


@dataclass(frozen=True)
class PaddedAttention:
    """The attentions that hide the padding which one mask describes.

    Attributes:
        rest: of each, what its mask does beside: ``"trivial"``: nothing, ``"causal"``, or ``"other"``.
    """

    formulas: MaskFormulas
    rest: Mapping[Node, str] = field(default_factory=dict)


def padded_attentions(graph: Graph) -> Iterator[PaddedAttention]:
    """For each input that is a padding mask, the attentions that heed it."""
    attentions = [n for n in graph.calls() if n.target is ATTENTION]
    masked = [(n, mask) for n in attentions if isinstance(mask := arguments(n)["attn_mask"], Node)]
    if not masked:
        return
    for node in graph.inputs:
        for formulas in _readings(graph, node):
            rest = {n: kind for n, mask in masked if (kind := _rest(formulas, mask)) is not None}
            if rest:
                yield PaddedAttention(formulas, rest)
                break


def _readings(graph: Graph, node: Node) -> Iterator[MaskFormulas]:
    """The ways in which an input could be a padding mask."""
    fake = node.meta["val"]
    if not may_be_mask(fake):
        return
    dtype, function = fake.dtype, sympy.Function(node.name)
    value = function(axis_symbol(fake.ndim - 1), axis_symbol(0))
    readings = [("binary", (0, sympy.Eq(value, 0)), (1, True))]
    if dtype.is_floating_point:
        readings.append(("additive", (0, sympy.Eq(value, 0)), (-sympy.oo, True)))
    for values, zero, other in readings:
        formula = sympy.Ne(value, 0) if dtype is torch.bool else sympy.Piecewise(zero, other)
        for valid in ("nonzero", "zero") if values == "binary" else ("zero",):
            mask = PaddingMask(str(node.target), valid, values)  # type: ignore[arg-type]  # literals
            formulas = MaskFormulas(mask, IndexExpressions(graph, {node: formula}), function)
            aligned = dict.fromkeys(_asks_for_alignment(graph, formulas), LEFT_ALIGNED)
            yield replace(formulas, expressions=IndexExpressions(graph, {node: formula, **aligned}))


def _asks_for_alignment(graph: Graph, formulas: MaskFormulas) -> Iterator[Node]:
    for node in graph.calls():
        if node.target is torch.ops.txgraph.is_left_aligned.default:
            at_tokens, at_padding = (formulas.of(node.args[0], 1, 0, valid) for valid in (True, False))
            if at_tokens == sympy.true and at_padding == sympy.false:
                yield node


def _rest(formulas: MaskFormulas, mask: Node) -> str | None:
    """What a mask ``[B, H, S, T]`` does beside hiding padded keys; ``None`` if it does not hide them."""
    tensor_type = type_of(mask)
    if tensor_type is None or tensor_type.rank != 4 or not _hides(formulas, mask):
        return None
    formula = formulas.of(mask, 3, 0, valid=True)
    if formula is not None:  # queries that are padding are not asked for
        formula = formulas.where(formula, 3, 1, valid=True)
    return kind_of_mask(formula, tensor_type.dtype, MOST_NEGATIVE_BIAS) or "other"


def _hides(formulas: MaskFormulas, mask: Any) -> bool:
    """Whether a mask ``[B, H, S, T]`` hides keys that are padding."""
    if not isinstance(mask, Node) or type_of(mask) is None:
        return False
    formula = formulas.of(mask, 3, 0, valid=False)
    if formula is not None:
        return bool(formula == sympy.false) or _is_low(formula)
    if mask.op != "call_function" or type_of(mask).rank != 4:  # type: ignore[union-attr]  # a tensor
        return False
    named = arguments(mask) if isinstance(mask.target, torch._ops.OpOverload) else {}
    match mask.target:
        case _aten.masked_fill.Scalar | _aten.masked_fill.Tensor:
            covered = _is_true_at_padding(formulas, named["mask"]) and _hides_number(named["value"])
            return covered or _hides(formulas, named["self"])
        case _aten.where.self | _aten.where.ScalarOther | _aten.where.ScalarSelf | _aten.where.Scalar:
            chosen = formulas.of(named["condition"], 3, 0, valid=False)
            sides = [named["self"]] if chosen == sympy.true else [named["other"]] if chosen == sympy.false else []
            return any(_hides_number(side) or _hides(formulas, side) for side in sides)
        case _aten.__and__.Tensor | _aten.bitwise_and.Tensor | _aten.logical_and.default:
            return _hides(formulas, named["self"]) or _hides(formulas, named["other"])
        case _aten.add.Tensor if named["alpha"] == 1:  # the other is a learned bias: a number
            return _hides(formulas, named["self"]) or _hides(formulas, named["other"])
    return False


def _is_true_at_padding(formulas: MaskFormulas, value: Node) -> bool:
    return bool(formulas.of(value, 3, 0, valid=False) == sympy.true)


def _hides_number(value: Any) -> bool:
    return isinstance(value, int | float) and value <= MOST_NEGATIVE_BIAS


def _is_low(formula: Expression) -> bool:
    """Whether a bias hides a key: a number, or a choice between numbers, that is low enough."""
    if isinstance(formula, sympy.Piecewise):
        return all(_is_low(case) for case, _ in formula.args)
    return not is_boolean(formula) and bool(formula.is_number) and float(formula) <= MOST_NEGATIVE_BIAS
