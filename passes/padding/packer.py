"""Write the packed form of chosen values beside them, and take these out of the graph."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch.fx import Node

from txgraph.ir import Graph, GraphBuilder, arguments, type_of
from txgraph.ir.symbols import new_size
from txgraph.passes.padding.attention_masks import ATTENTION
from txgraph.passes.padding.layout import Axis, Layout, TokenAxes
from txgraph.passes.padding.token_flow import TokenFlow
from txgraph.passes.padding.token_wise import named_arguments, rule_of
from txgraph.rewrite import Rewrite

_aten = torch.ops.aten


class Packer:
    """Packs the tokens of one mask; what rules ask for when they write an operator's packed form.

    Args:
        flow: where tokens are. chosen: the values to pack.
        count: how many tokens there are in the call that the graph is made for.
        made_by: name of the pass.

    Attributes:
        tokens: sizes of the batch and sequence axes.
        g: makes nodes at the place of the operator that is being packed.
    """

    def __init__(self, graph: Graph, flow: TokenFlow, chosen: set[Node], count: int, made_by: str) -> None:
        self._graph, self._flow, self._made_by = graph, flow, made_by
        self._old = [n for n in graph.nodes if n in chosen]
        self._made: list[Node] = []
        self._packed: dict[Node, Node] = {}
        self._beside: dict[tuple[Node, tuple[Axis, ...]], Node] = {}
        self.tokens: TokenAxes = flow.tokens
        self.g = self._builder(self._old[0])
        mask = flow.attention.formulas.mask
        self._mask = next(n for n in graph.inputs if str(n.target) == mask.input)
        self._row, self._position, self._lengths, self._first, self._last = self._token_index(count)

    def run(self, root: Node) -> Rewrite:
        """Pack, and hand values back to the users that stay; ``root`` is what the rewrite is known by."""
        chosen = set(self._old)
        for node in self._old:
            self.g = self._builder(node)
            self._packed[node] = self._pack(node)
            self._hand_back(node, [user for user in node.users if user not in chosen])
        self._made += self.g.made
        removed = [root, *(n for n in reversed(self._old) if n is not root)]
        record = Rewrite.of(self._made_by, removed, [n for n in self._made if n.users])
        for node in reversed(self._old):
            self._graph.fx.erase_node(node)
        return record

    # What rules ask for.

    def layout(self, value: Any) -> Layout | None:
        """The layout of a value with tokens; ``None`` for any other."""
        return self._flow.layout(value)

    def packed(self, value: Node) -> Node:
        """The packed form of a value with tokens; it is gathered where it is computed for all positions."""
        if value not in self._packed:
            layout = self._flow.layouts[value]
            axes = [layout.axis_of("batch"), layout.axis_of("sequence")]
            assert None not in axes, "an input, or what is made of inputs without a reshape"
            self._packed[value] = self._gather(value, axes, [self._row, self._position])  # type: ignore[arg-type]
        return self._packed[value]

    def operand(self, value: Any, beside: Layout) -> Any:
        """The packed form of an operand that broadcasts with a value of the given layout."""
        if not isinstance(value, Node) or type_of(value) is None:
            return value
        if value in self._flow.layouts:
            return self._lengthened(self.packed(value), len(beside.packed_sizes))
        axes = beside.axes[beside.rank - value.meta["val"].ndim :]
        if (value, axes) not in self._beside:
            self._beside[value, axes] = self._at_tokens(value, axes, len(beside.packed_sizes))
        return self._beside[value, axes]

    # From padded values to packed ones.

    def _token_index(self, count: int) -> list[Node]:
        valid = self._flow.attention.formulas.mask.build_tokens(self.g, self._mask)
        size = new_size(self._graph, "N", f"tokens_of_{self._mask.name}", count)
        sizes = (size, size, *[self.tokens.batch] * 3)
        types = tuple(valid.meta["val"].new_empty(each, dtype=torch.int64) for each in sizes)
        index = self.g.typed(types, torch.ops.txgraph.token_index.default, valid)
        return [self.g.typed(each, operator.getitem, index, at) for at, each in enumerate(types)]

    def _gather(self, value: Node, axes: Sequence[int], index: Sequence[Node]) -> Node:
        """``[N, ...]``: the elements at ``index`` along ``axes``; the others keep their order."""
        order = [*axes, *(at for at in range(value.meta["val"].ndim) if at not in axes)]
        moved = self.g.aten.permute(value, order) if order != sorted(order) else value
        return self.g.aten.index.Tensor(moved, list(index))

    def _at_tokens(self, value: Node, axes: Sequence[Axis], rank: int) -> Node:
        """A value without tokens whose axes broadcast with ``axes``, of a packed value with ``rank`` plain axes."""
        shape = value.meta["val"].shape
        held = [at for at, axis in enumerate(axes) if any(isinstance(part, str) for part in axis)]
        index = {("batch",): self._row, ("sequence",): self._position}
        varying = [at for at in held if str(shape[at]) != "1"]
        for at in reversed([at for at in held if at not in varying]):
            value = self.g.aten.squeeze.dim(value, at)
            varying = [v - (v > at) for v in varying]
        if not varying:
            return value
        kept = [axis for at, axis in enumerate(axes) if at in held and str(shape[at]) != "1"]
        rows = self._gather(value, varying, [index[axis] for axis in kept])  # type: ignore[index]  # one token each
        return self._lengthened(rows, rank)

    def _lengthened(self, packed: Node, rank: int) -> Node:
        """With axes of size 1 behind ``N``, for the leading axes that broadcasting adds: the tokens stay in front."""
        for _ in range(rank + 1 - packed.meta["val"].ndim):
            packed = self.g.aten.unsqueeze(packed, 1)
        return packed

    def _pack(self, node: Node) -> Node:
        if node.target is ATTENTION:
            return self._attention(node)
        rule = rule_of(node)
        assert rule is not None, "it has a layout"
        return rule.pack(node, named_arguments(node), self)

    def _attention(self, node: Node) -> Node:
        named = arguments(node)
        rest = self._flow.attention.rest[node]
        return self.g.txgraph.ragged_attention(
            *(self.packed(named[each]) for each in ("query", "key", "value")),
            *(self._row, self._position, self._lengths),
            named["attn_mask"] if rest == "other" else None,
            rest == "causal",
            named["scale"],
            named["enable_gqa"],
        )

    # And back.

    def _hand_back(self, node: Node, users: Sequence[Node]) -> None:
        """Give the users that stay what they read of a packed value."""
        padded: Node | None = None
        for user in users:
            end = None if user in self._flow.layouts else self._flow.end_taken(user, node)
            if end is not None:
                places = {"first": self._first, "last": self._last}[end]
                self._replace(user, self.g.aten.index.Tensor(self._packed[node], [places]))
                continue
            padded = self._unpack(node) if padded is None else padded
            if self._only_zeroes(user, node):
                self._replace(user, padded)
            else:
                user.replace_input_with(node, padded)

    def _replace(self, old: Node, new: Node) -> None:
        old.replace_all_uses_with(new)
        self._graph.fx.erase_node(old)

    def _only_zeroes(self, user: Node, value: Node) -> bool:
        """Whether ``user`` puts zeros at padding, which the unpacked value has there already."""
        if user.target is not _aten.masked_fill.Scalar or user.args[0] is not value or user.args[2] != 0:
            return False
        return self._flow.is_padding(user, user.args[1])

    def _unpack(self, node: Node) -> Node:
        """The padded value, with zeros at padding."""
        layout, packed, g = self._flow.layouts[node], self._packed[node], self.g
        sizes = [g.size(self._mask, 0), g.size(self._mask, -1)]
        zeros = g.aten.new_zeros(packed, [*sizes, *layout.packed_sizes])
        value = g.aten.index_put(zeros, [self._row, self._position], packed)
        plain = iter(range(2, 2 + len(layout.packed_sizes)))
        places = {"batch": 0, "sequence": 1}
        order = [places[part] if isinstance(part, str) else next(plain) for axis in layout.axes for part in axis]
        if order != sorted(order):
            value = g.aten.permute(value, order)
        if any(len(axis) > 1 for axis in layout.axes):
            value = g.aten.reshape(value, [g.size(node, at) for at in range(layout.rank)])
        return value

    def _builder(self, before: Node) -> GraphBuilder:
        self._made += self.g.made if hasattr(self, "g") else []
        return GraphBuilder(self._graph, before, made_by=self._made_by)
