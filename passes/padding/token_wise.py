"""Operators that treat every token by itself: what layout their result has, and how they are done on packed tokens.

An operator that is not here, or whose arguments do not allow it, needs the padded value.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch._ops import OpOverload
from torch.fx import Node

from txgraph.ir import GraphBuilder, arguments, type_of
from txgraph.ir.node import GETITEM
from txgraph.passes.padding.layout import Layout, TokenAxes

_aten = torch.ops.aten
_txgraph = torch.ops.txgraph

Named = Mapping[str, Any]


class Known(Protocol):
    """What is known of the values before a node."""

    tokens: TokenAxes

    def layout(self, value: Any) -> Layout | None:
        """The layout of a value with tokens; ``None`` for any other."""


class Packed(Known, Protocol):
    """Makes packed values."""

    g: GraphBuilder

    def packed(self, value: Node) -> Node:
        """The packed form of a value with tokens."""

    def operand(self, value: Any, beside: Layout) -> Any:
        """The packed form of an operand that broadcasts with a value of the given layout."""


@dataclass(frozen=True)
class Rule:
    """One kind of token-wise operator.

    Attributes:
        layout: of the result; ``None`` if the operator is not token-wise with these arguments.
        pack: makes the operator's result on packed tokens.
    """

    layout: Callable[[Node, Named, Known], Layout | None]
    pack: Callable[[Node, Named, Packed], Node]


def rule_of(node: Node) -> Rule | None:
    """The rule for a node's operator, if it may be token-wise."""
    rule = RULES.get(node.target)
    if rule is None and isinstance(node.target, OpOverload) and torch.Tag.pointwise in node.target.tags:
        return POINTWISE
    return rule


def _operator(node: Node) -> OpOverload:
    assert isinstance(node.target, OpOverload), "getitem has a rule of its own"
    return node.target


def named_arguments(node: Node) -> Named:
    """The arguments by name; of ``getitem``, which has no schema, as well."""
    return dict(zip(("self", "index"), node.args, strict=True)) if node.target is GETITEM else arguments(node)


# Each element by itself, with broadcasting.


def _pointwise_layout(node: Node, named: Named, known: Known) -> Layout | None:
    operands = [(n, layout) for n in node.all_input_nodes if (layout := known.layout(n)) is not None]
    shape = _shape(node)
    widest = next((layout for _, layout in operands if layout.rank == len(shape)), None)
    if widest is None or any(o.tokens_from_right() != widest.tokens_from_right() for _, o in operands):
        return None
    result = widest.resized(shape)
    others = [n for n in node.all_input_nodes if known.layout(n) is None]
    return result if result is not None and all(_can_stand_beside(n, result) for n in others) else None


def _can_stand_beside(value: Node, layout: Layout) -> bool:
    """Whether a value without layout can be gathered at each token: not where batch and sequence are in one axis."""
    if type_of(value) is None:
        return True
    shape = _shape(value)
    for at in range(len(shape)):
        axis = layout.axes[at + layout.rank - len(shape)]
        if axis not in (("batch",), ("sequence",)) and any(isinstance(p, str) for p in axis) and str(shape[at]) != "1":
            return False
    return True


def _pack_pointwise(node: Node, named: Named, packed: Packed) -> Node:
    layout = packed.layout(node)
    assert layout is not None, "it is token-wise"
    beside = layout
    args = torch.fx.map_arg(node.args, lambda n: packed.operand(n, beside))
    kwargs = torch.fx.map_arg(node.kwargs, lambda n: packed.operand(n, beside))
    return packed.g.call(_operator(node), *args, **kwargs)


POINTWISE = Rule(_pointwise_layout, _pack_pointwise)


# The last axes, or some plain axes; the first argument has the tokens and the others are the same for all of them.


def _only(node: Node, value: Any, known: Known) -> Layout | None:
    """The layout of ``value``, if nothing else that the operator takes has tokens."""
    layout = known.layout(value)
    return layout if all(n is value or known.layout(n) is None for n in node.all_input_nodes) else None


def _trailing_layout(axes: Callable[[Named], int]) -> Callable[[Node, Named, Known], Layout | None]:
    def layout(node: Node, named: Named, known: Known) -> Layout | None:
        source = _only(node, node.args[0], known)
        count = axes(named)
        if source is None or not all(source.is_plain(at) for at in range(source.rank - count, source.rank)):
            return None
        return source if _is_list(node) else source.resized(_shape(node))

    return layout


def _pack_first(node: Node, named: Named, packed: Packed) -> Node:
    return packed.g.call(_operator(node), packed.packed(node.args[0]), *node.args[1:], **node.kwargs)  # type: ignore[arg-type]


def _matmul_layout(node: Node, named: Named, known: Known) -> Layout | None:
    other = type_of(named["other"])
    return _trailing_layout(lambda _: 1)(node, named, known) if other is not None and other.rank == 2 else None


def _along_layout(node: Node, named: Named, known: Known) -> Layout | None:
    source, dims = _only(node, node.args[0], known), _dims(named)
    if source is None or not dims or not all(source.is_plain(dim % source.rank) for dim in dims):
        return None
    if _is_list(node):
        return source  # of the whole; each piece has its own sizes
    if len(_shape(node)) == source.rank:
        return source.resized(_shape(node))
    for dim in sorted((dim % source.rank for dim in dims), reverse=True):
        source = source.without(dim)
    return source


def _pack_along(node: Node, named: Named, packed: Packed) -> Node:
    source = packed.layout(node.args[0])
    assert source is not None, "it is token-wise"
    dims = [source.packed_axis(dim % source.rank) for dim in _dims(named)]
    changed = {**named, "self": packed.packed(node.args[0]), "dim": dims if isinstance(named["dim"], list) else dims[0]}  # type: ignore[arg-type]
    return _call(node, changed, packed.g)


def _dims(named: Named) -> list[int]:
    dim = named["dim"]
    return [] if dim is None else list(dim) if isinstance(dim, list | tuple) else [dim]


def _call(node: Node, named: Named, g: GraphBuilder) -> Node:
    """Call the node's operator with arguments by name."""
    schema = _operator(node)._schema.arguments
    args = [named[a.name] for a in schema if not a.kwarg_only]
    kwargs = {a.name: named[a.name] for a in schema if a.kwarg_only and named[a.name] is not None}
    return g.call(_operator(node), *args, **kwargs)


def _cat_layout(node: Node, named: Named, known: Known) -> Layout | None:
    layouts = [known.layout(each) for each in named["tensors"]]
    first = layouts[0]
    if first is None or not first.is_plain(named["dim"] % first.rank):
        return None
    if any(each is None or each.tokens_from_right() != first.tokens_from_right() for each in layouts):
        return None
    return first.resized(_shape(node))


def _pack_list(node: Node, named: Named, packed: Packed) -> Node:
    """Of ``cat`` and ``stack``: the axis is one of the result."""
    layout = packed.layout(node)
    assert layout is not None, "it is token-wise"
    parts = [packed.packed(each) for each in named["tensors"]]
    return packed.g.call(_operator(node), parts, layout.packed_axis(named["dim"] % layout.rank))


def _stack_layout(node: Node, named: Named, known: Known) -> Layout | None:
    layouts = [known.layout(each) for each in named["tensors"]]
    first = layouts[0]
    if first is None or any(each != first for each in layouts):
        return None
    return first.inserted(named["dim"] % (first.rank + 1)).resized(_shape(node))


def _index_layout(node: Node, named: Named, known: Known) -> Layout | None:
    """Of a selection along one plain axis by a list of places."""
    source, given = _only(node, named["self"], known), [at for at, i in enumerate(named["indices"]) if i is not None]
    if source is None or len(given) != 1 or not source.is_plain(given[0]):
        return None
    return source.resized(_shape(node)) if len(_shape(named["indices"][given[0]])) == 1 else None


def _pack_index(node: Node, named: Named, packed: Packed) -> Node:
    source = packed.layout(named["self"])
    assert source is not None, "it is token-wise"
    at = next(at for at, index in enumerate(named["indices"]) if index is not None)
    indices = [*[None] * source.packed_axis(at), named["indices"][at]]
    return packed.g.aten.index.Tensor(packed.packed(named["self"]), indices)


def _piece_layout(node: Node, named: Named, known: Known) -> Layout | None:
    whole = known.layout(named["self"])
    return None if whole is None or type_of(node) is None else whole.resized(_shape(node))


def _pack_piece(node: Node, named: Named, packed: Packed) -> Node:
    return packed.g.call(operator.getitem, packed.packed(named["self"]), named["index"])


def _embedding_layout(node: Node, named: Named, known: Known) -> Layout | None:
    ids = known.layout(named["indices"])
    if ids is None or known.layout(named["weight"]) is not None:
        return None
    return Layout((*ids.axes, (1,))).resized(_shape(node))


def _pack_embedding(node: Node, named: Named, packed: Packed) -> Node:
    return _call(node, {**named, "indices": packed.packed(named["indices"])}, packed.g)


# Axes in another order or form.


def _reshape_layout(node: Node, named: Named, known: Known) -> Layout | None:
    source = known.layout(named["self"])
    return None if source is None else source.reshaped(_shape(node), known.tokens)


def _pack_reshape(node: Node, named: Named, packed: Packed) -> Node:
    source, layout, value = packed.layout(named["self"]), packed.layout(node), packed.packed(named["self"])
    assert source is not None, "it is token-wise"
    assert layout is not None, "likewise"
    if source.packed_sizes == layout.packed_sizes:
        return value
    return packed.g.aten.reshape(value, [-1, *layout.packed_sizes])


def _order(node: Node, named: Named) -> list[int]:
    rank = len(_shape(node))
    if "dims" in named:
        return [dim % rank for dim in named["dims"]]
    order, (a, b) = list(range(rank)), (named["dim0"] % rank, named["dim1"] % rank)
    order[a], order[b] = b, a
    return order


def _permute_layout(node: Node, named: Named, known: Known) -> Layout | None:
    source = known.layout(named["self"])
    return None if source is None else source.permuted(_order(node, named))


def _pack_permute(node: Node, named: Named, packed: Packed) -> Node:
    source, value = packed.layout(named["self"]), packed.packed(named["self"])
    assert source is not None, "it is token-wise"
    moved = [
        source.packed_axis(axis) + at for axis in _order(node, named) for at in range(len(source.plain_sizes(axis)))
    ]
    return value if moved == sorted(moved) else packed.g.aten.permute(value, [0, *moved])


def _unsqueeze_layout(node: Node, named: Named, known: Known) -> Layout | None:
    source = known.layout(named["self"])
    return None if source is None else source.inserted(named["dim"] % (source.rank + 1))


def _squeeze_layout(node: Node, named: Named, known: Known) -> Layout | None:
    source = known.layout(named["self"])
    axis = 0 if source is None else named["dim"] % source.rank
    return source.without(axis) if source is not None and source.axes[axis] == (1,) else None


def _expand_layout(node: Node, named: Named, known: Known) -> Layout | None:
    source = known.layout(named["self"])
    return None if source is None else source.resized(_shape(node))


def _pack_expand(node: Node, named: Named, packed: Packed) -> Node:
    source, layout, value = packed.layout(named["self"]), packed.layout(node), packed.packed(named["self"])
    assert source is not None, "it is token-wise"
    assert layout is not None, "likewise"
    return value if source == layout else packed.g.aten.expand(value, [-1, *layout.packed_sizes])


def _is_list(node: Node) -> bool:
    return isinstance(node.meta.get("val"), tuple | list)


def _shape(node: Node) -> tuple[int | torch.SymInt, ...]:
    tensor_type = type_of(node)
    assert tensor_type is not None, "the operator gives a tensor"
    return tensor_type.shape


_RESHAPE = Rule(_reshape_layout, _pack_reshape)
_PERMUTE = Rule(_permute_layout, _pack_permute)
_ALONG = Rule(_along_layout, _pack_along)
_LAST = Rule(_trailing_layout(lambda _: 1), _pack_first)
_NORM = Rule(_trailing_layout(lambda named: len(named["normalized_shape"])), _pack_first)

RULES: dict[Any, Rule] = {
    **dict.fromkeys((_aten._to_copy.default, _aten.clone.default, _aten.alias.default), POINTWISE),
    **dict.fromkeys((_aten.linear.default, _txgraph.linear_activation.default, _txgraph.linears.default), _LAST),
    _txgraph.fake_quantize_rows.default: _LAST,
    _aten.matmul.default: Rule(_matmul_layout, _pack_first),
    **dict.fromkeys((_aten.layer_norm.default, _aten.rms_norm.default), _NORM),
    **dict.fromkeys(
        (
            _aten.softmax.int,
            _aten._softmax.default,
            _aten.log_softmax.int,
            _aten.mean.dim,
            _aten.sum.dim_IntList,
            _aten.amax.default,
            _aten.select.int,
            _aten.slice.Tensor,
            _aten.split.Tensor,
            _aten.split_with_sizes.default,
            _aten.chunk.default,
        ),
        _ALONG,
    ),
    _aten.cat.default: Rule(_cat_layout, _pack_list),
    _aten.stack.default: Rule(_stack_layout, _pack_list),
    _aten.index.Tensor: Rule(_index_layout, _pack_index),
    GETITEM: Rule(_piece_layout, _pack_piece),
    _aten.embedding.default: Rule(_embedding_layout, _pack_embedding),
    **dict.fromkeys((_aten.reshape.default, _aten.view.default), _RESHAPE),
    _aten.unsqueeze.default: Rule(_unsqueeze_layout, _pack_reshape),
    _aten.squeeze.dim: Rule(_squeeze_layout, _pack_reshape),
    **dict.fromkeys((_aten.permute.default, _aten.transpose.int), _PERMUTE),
    _aten.expand.default: Rule(_expand_layout, _pack_expand),
}
