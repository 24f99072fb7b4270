"""Which values of a graph have tokens, and of which of these the values at padding are used.

Forward: inputs have a batch and a sequence axis, and token-wise operators hand them on. An input counts only if it
reaches the keys or values of an attention that hides its padding, with its axes where the mask has them.
Backward: a value's padding is used if it reaches an output, or an operator that mixes tokens or needs their places;
not by an attention that hides it, a product with a mask that is zero there, or a fill under such a mask.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import sympy
import torch
from torch.fx import Node

from txgraph.ir import Graph, arguments, type_of
from txgraph.ir.node import same_size
from txgraph.passes.padding.attention_masks import LEFT_ALIGNED, MaskFormulas, PaddedAttention
from txgraph.passes.padding.layout import Axis, Layout, TokenAxes
from txgraph.passes.padding.token_wise import named_arguments, rule_of

_aten = torch.ops.aten
_BATCH_FIRST: tuple[Axis, Axis] = (("batch",), ("sequence",))


@dataclass
class TokenFlow:
    """The tokens of one padding mask in one graph.

    Attributes:
        layouts: of the values that have tokens.
        exposed: those whose values at padding are used: by which node.
        needs: ``"first"`` and ``"last"`` if that token of each row is taken by its place, ``"some"`` if each row must
            have one, ``"left"`` if its tokens must come before its padding.
    """

    graph: Graph
    attention: PaddedAttention
    tokens: TokenAxes
    layouts: dict[Node, Layout] = field(default_factory=dict)
    exposed: dict[Node, Node] = field(default_factory=dict)
    needs: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, graph: Graph, attention: PaddedAttention) -> TokenFlow:
        """Follow the tokens forward, then the use of padding backward."""
        mask = next(n for n in graph.inputs if str(n.target) == attention.formulas.mask.input)
        shape = type_of(mask).shape  # type: ignore[union-attr]  # the spec: inputs are tensors
        flow = cls(graph, attention, TokenAxes(shape[0], shape[-1]))
        sources: dict[Node, Layout] = {}
        for node in graph.inputs:
            for layout in flow._guesses(node):
                if flow._reaches_attention({node: layout}):
                    sources[node] = layout
                    break
        flow.layouts = flow._spread(sources)
        flow._find_exposed()
        return flow

    def layout(self, value: Any) -> Layout | None:
        """The layout of a value with tokens; ``None`` for any other."""
        return self.layouts.get(value) if isinstance(value, Node) else None

    def is_padding(self, node: Node, value: Any) -> bool:
        """Whether a boolean beside ``node``, which has tokens, is true where these are padding, and only there."""
        at_padding, at_tokens = (self._at(node, value, valid) for valid in (False, True))
        return bool(at_padding == sympy.true) and bool(at_tokens == sympy.false)

    def masks(self, user: Node, value: Node) -> bool:
        """Whether ``user`` replaces what ``value`` holds at padding by a number, or zero."""
        if user.target not in _MASKING:
            return False
        named = arguments(user)
        match user.target:
            case _aten.mul.Tensor:
                other = named["other"] if named["self"] is value else named["self"]
                return other is not value and self._at(user, other, valid=False) in (0, sympy.false)
            case _aten.masked_fill.Scalar | _aten.masked_fill.Tensor:
                return named["self"] is value and self._at(user, named["mask"], valid=False) == sympy.true
        chosen = self._at(user, named["condition"], valid=False)
        sides = {sympy.true: "other", sympy.false: "self"}
        return chosen in sides and named[sides[chosen]] is value and named["condition"] is not value

    def _at(self, node: Node, value: Any, valid: bool) -> Any:
        """The formula of an operand of ``node`` where the tokens of ``node`` are valid, or padding."""
        layout = self.layouts.get(node)
        batch, place = (None, None) if layout is None else (layout.axis_of("batch"), layout.axis_of("sequence"))
        if layout is None or batch is None or place is None:
            return None
        formula = self._formulas.of(value, layout.rank - 1 - batch, layout.rank - 1 - place, valid)
        if formula is None or not formula.has(LEFT_ALIGNED):
            return formula
        self.needs.add("left")
        return formula.subs(LEFT_ALIGNED, sympy.true)

    @property
    def _formulas(self) -> MaskFormulas:
        return self.attention.formulas

    def _guesses(self, node: Node) -> list[Layout]:
        """The layouts that an input could have: batch first, or the sequence."""
        shape = type_of(node).shape  # type: ignore[union-attr]  # the spec: inputs are tensors
        guesses = []
        for order in (_BATCH_FIRST, _BATCH_FIRST[::-1]):
            sizes = [getattr(self.tokens, axis[0]) for axis in order]  # type: ignore[arg-type]  # the two tokens
            if len(shape) >= 2 and all(map(same_size, shape, sizes)):
                layout = Layout((*order, *[(1,)] * (len(shape) - 2))).resized(shape)
                guesses += [layout] if layout is not None else []
        return guesses

    def _spread(self, sources: dict[Node, Layout]) -> dict[Node, Layout]:
        """The layouts of all values that token-wise operators make of the sources."""
        known = _Known(self.tokens, dict(sources))
        for node in self.graph.calls():
            if not any(source in known.layouts for source in node.all_input_nodes):
                continue
            layout = None
            if node in self.attention.rest:
                layout = _attention_layout(node, known)
            elif (rule := rule_of(node)) is not None:
                layout = rule.layout(node, named_arguments(node), known)
            if layout is not None:
                known.layouts[node] = layout
        return known.layouts

    def _reaches_attention(self, sources: dict[Node, Layout]) -> bool:
        layouts = self._spread(sources)
        read = (arguments(n)[each] for n in self.attention.rest for each in ("key", "value"))
        return any(_is_heads(layouts.get(value)) for value in read)

    def _find_exposed(self) -> None:
        for node in reversed(list(self.graph.nodes)):
            if node in self.layouts:
                user = next((user for user in node.users if self._exposes(user, node)), None)
                if user is not None:
                    self.exposed[node] = user

    def _exposes(self, user: Node, value: Node) -> bool:
        """Whether ``user`` needs what ``value`` holds at padding."""
        if user in self.attention.rest and _hides_padding_of(user, value):
            if user not in self.layouts or user in self.exposed:
                self.needs.add("some")  # a query that stays may average the keys of a row where all are hidden
            return not _is_heads(self.layouts[value])
        if user in self.layouts:
            return user in self.exposed and not self.masks(user, value)
        end = self.end_taken(user, value)
        if end is None:
            return True
        self.needs.add(end)
        return False

    def end_taken(self, user: Node, value: Node) -> str | None:
        """``"first"`` or ``"last"`` if ``user`` takes that token of each row by its place."""
        layout = self.layouts[value]
        if user.target is not _aten.select.int or layout.axis_of("batch") is None:
            return None
        _, dim, index = user.args
        if layout.axis_of("sequence") != dim % layout.rank:  # type: ignore[operator]  # a dimension
            return None
        size = self.tokens.sequence
        last = index == -1 or (isinstance(size, int) and index == size - 1)
        return "first" if index == 0 else "last" if last else None


@dataclass
class _Known:
    tokens: TokenAxes
    layouts: dict[Node, Layout]

    def layout(self, value: Any) -> Layout | None:
        return self.layouts.get(value) if isinstance(value, Node) else None


_MASKING = frozenset(
    (
        _aten.mul.Tensor,
        _aten.masked_fill.Scalar,
        _aten.masked_fill.Tensor,
        _aten.where.self,
        _aten.where.ScalarOther,
        _aten.where.ScalarSelf,
    )
)


def _is_heads(layout: Layout | None) -> bool:
    """Whether a value is ``[B, H, S, D]``."""
    if layout is None or layout.rank != 4:
        return False
    return layout.axes[0::2] == (("batch",), ("sequence",)) and layout.is_plain(1) and layout.is_plain(3)


def _hides_padding_of(attention: Node, value: Node) -> bool:
    """Whether a value is the keys or values of an attention, and nothing else that it takes."""
    named = arguments(attention)
    return value in (named["key"], named["value"]) and value not in (named["query"], named["attn_mask"])


def _attention_layout(node: Node, known: _Known) -> Layout | None:
    """Of an attention whose queries, keys and values are the same tokens."""
    named = arguments(node)
    if named["dropout_p"] or named["is_causal"]:
        return None
    if not all(_is_heads(known.layout(named[each])) for each in ("query", "key", "value")):
        return None
    shape = type_of(node).shape  # type: ignore[union-attr]  # attention gives a tensor
    return known.layouts[named["query"]].resized(shape)
