"""Combine the constants of a sum, and those of a product, into one.

before:  (x + c1) + c2         (x * c1) * c2         c: constants of the graph, or numbers
after:   x + (c1 + c2)         x * (c1 * c2)         computed in float64 and rounded once; other terms keep their places
legal:   one dtype; no partial result is used elsewhere; the new constant does not enlarge a partial result. Integers
         wrap around, so any order gives the same. Floating-point constants are finite, and
         - of a sum: the largest value of each and that of the sum differ by a factor of 4 at most (2 in 16 bits). Where
           x cancels c1 eager is exact, and here c1 + c2 is rounded: by half an eps of 4 times c2 at most, which the
           gates allow. Where c1 cancels c2, eager's rounding of x + c1 may be what is wanted. None is so large that it
           makes the largest number overflow
         - of a product: no partial product exceeds both 1 and the whole, so that none overflows unless the whole does;
           the whole is neither too large nor subnormal
pays:    a read and a write of x (bytes) for each constant less; costs the new one, so it is declined where that is
         larger than ``max_bytes`` and than those it was made from
source:  Higham 2002, sections 2.2 and 4.2 (rounding errors of products and of sums)
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import accumulate
from typing import Any

import torch
from torch.fx import Node

from txgraph.ir import Graph, GraphBuilder, arguments, same_size, type_of
from txgraph.rewrite import Accept, Pass, PassContext, Reject, Rewrite, replace

_ADD, _MUL = torch.ops.aten.add.Tensor, torch.ops.aten.mul.Tensor
_LARGEST_RATIO = {torch.float64: 4.0, torch.float32: 4.0}  # by dtype; 2 in 16 bits, where the gates have t = 1


@dataclass(frozen=True)
class _Term:
    """A sum or product of a value and a constant, which is the argument ``side``."""

    node: Node
    side: str

    @property
    def constant(self) -> Any:
        return arguments(self.node)[self.side]

    @property
    def value(self) -> Node:
        node: Node = arguments(self.node)["other" if self.side == "self" else "self"]
        return node


@dataclass(frozen=True)
class CombineConstantTerms(Pass):
    """One constant in each chain of sums, and in each chain of products.

    Attributes:
        max_bytes: largest new constant in bytes that may be bigger than those it was made from.
    """

    max_bytes: int = 1 << 20

    @property
    def pays(self) -> bool:
        return True

    def run(self, graph: Graph, context: PassContext) -> list[Rewrite]:
        order = {node: at for at, node in enumerate(graph.nodes)}
        rewrites: list[Rewrite] = []
        seen: set[Node] = set()
        for root in reversed(graph.calls()):  # users first: a chain is found from its end
            if root in seen or not _is_link(root):
                continue
            terms = sorted(_constant_terms(graph, root, seen), key=lambda term: order[term.node])
            if len(terms) < 2:
                continue
            verdict = self._check(graph, terms)
            if isinstance(verdict, Reject):
                context.decline(self, root, verdict.reason, verdict.node)
            elif context.permits(self, terms[0].node):
                rewrites.append(self._combine(graph, root, terms))
        return rewrites

    def _check(self, graph: Graph, terms: Sequence[_Term]) -> Accept | Reject:
        first = terms[0].node
        whole = type_of(first)
        assert whole is not None, "schema: a tensor"
        if whole.dtype.is_complex or whole.dtype is torch.bool:
            return Reject(f"the values are {whole}, expected numbers", first)
        for term in terms:
            held = [t for t in (type_of(term.value), type_of(term.constant)) if t is not None]
            if any(t.dtype != whole.dtype for t in held):
                return Reject(f"it mixes dtypes: {' and '.join(map(str, held))}", term.node)
        constants = [_tensor(graph, term) for term in terms]
        shape = torch.broadcast_shapes(*(c.shape for c in constants))
        enlarged = [term.node for term in terms[1:] if type_of(term.value) != type_of(term.node)]
        if enlarged or not _expands_to(shape, whole.shape):
            return Reject("a constant enlarges the value, and would do so earlier", (enlarged or [first])[0])
        size = shape.numel() * whole.dtype.itemsize
        if size > max(self.max_bytes, sum(c.nbytes for c in constants)):
            return Reject(f"the new constant has {size} bytes, more than those it is made from", first)
        if whole.dtype.is_floating_point:
            wide = [c.double() for c in constants]
            differs = _why_sum_differs if first.target is _ADD else _why_product_differs
            reason = differs(wide, _total(first, constants), whole.dtype)
            if reason:
                return Reject(reason, first)
        return Accept()

    def _combine(self, graph: Graph, root: Node, terms: Sequence[_Term]) -> Rewrite:
        first = terms[0]
        builder = GraphBuilder(graph, first.node, like=[term.node for term in terms], made_by=self.name)
        total = _total(first.node, [_tensor(graph, term) for term in terms])
        names = [str(term.constant.target) for term in terms if isinstance(term.constant, Node)]
        constant: Any
        if names:
            rounded = total.to(first.node.meta["val"].dtype).contiguous()
            constant = builder.constant("_and_".join(dict.fromkeys(names)), rounded, names)
        else:
            constant = total.item()
        new = builder.aten.add.Tensor if first.node.target is _ADD else builder.aten.mul.Tensor
        value = new(first.value, constant)
        values = {t.node: value if t is first else t.value for t in terms}
        return replace(self.name, values, builder.made, equal={root: root})  # between them a term is missing


def _is_link(value: object) -> bool:
    return isinstance(value, Node) and value.target in (_ADD, _MUL) and arguments(value).get("alpha", 1) == 1


def _constant_terms(graph: Graph, root: Node, seen: set[Node]) -> Iterator[_Term]:
    """The constants of the chain that ends in ``root``; a sum is also followed through terms that are not constant."""
    pending = [root]
    while pending:
        node = pending.pop()
        seen.add(node)
        sides = {side: arguments(node)[side] for side in ("self", "other")}
        constant = [s for s, v in sides.items() if not isinstance(v, Node) or v.op == "get_attr"]
        if any(isinstance(sides[s], bool) or _is_written(graph, sides[s]) for s in constant):
            continue
        if len(constant) == 1:
            yield _Term(node, constant[0])
        elif constant or root.target is _MUL or sides["self"] is sides["other"]:
            continue
        for side, value in sides.items():
            if side not in constant and _is_link(value) and value.target is root.target and len(value.users) == 1:
                pending.append(value)


def _is_written(graph: Graph, constant: object) -> bool:
    return isinstance(constant, Node) and graph.is_written(constant.target)


def _tensor(graph: Graph, term: _Term) -> torch.Tensor:
    """The constant of a term; numbers in the widest dtype of their kind."""
    if isinstance(term.constant, Node):
        return graph.constants[str(term.constant.target)].detach()
    floating = term.node.meta["val"].is_floating_point()
    return torch.tensor(term.constant, dtype=torch.float64 if floating else torch.int64)


def _total(first: Node, constants: Sequence[torch.Tensor]) -> torch.Tensor:
    """All constants in one: floats in float64, integers wrapped around in the dtype of the values."""
    dtype = first.meta["val"].dtype
    wide = [c.double() if dtype.is_floating_point else c.to(dtype) for c in constants]
    return reduce(operator.add if first.target is _ADD else operator.mul, wide)


def _expands_to(shape: Sequence[int], wanted: Sequence[int | torch.SymInt]) -> bool:
    aligned = zip(reversed(shape), reversed(wanted), strict=False)
    return len(shape) <= len(wanted) and all(size == 1 or same_size(size, other) for size, other in aligned)


def _why_sum_differs(constants: Sequence[torch.Tensor], total: torch.Tensor, dtype: torch.dtype) -> str:
    if not all(bool(c.isfinite().all()) for c in (*constants, total)):
        return "a constant is not finite"
    *each, whole = (float(c.abs().max()) if c.numel() else 0.0 for c in (*constants, total))
    limits = torch.finfo(dtype)
    if max(*each, whole) > limits.max * limits.eps / 4:  # half the distance of the two largest numbers
        return "the constants are so large that a sum may overflow"
    largest_ratio = _LARGEST_RATIO.get(dtype, 2.0)
    for size in filter(None, each):
        if size > largest_ratio * whole:
            return f"the constants cancel: values up to {size:.3g}, their sum up to {whole:.3g}"
        if whole > largest_ratio * size:
            return f"values up to {size:.3g} would drown in a constant of up to {whole:.3g}"
    return ""


def _why_product_differs(constants: Sequence[torch.Tensor], total: torch.Tensor, dtype: torch.dtype) -> str:
    rounded = total.to(dtype)
    if not all(bool(c.isfinite().all()) for c in (*constants, rounded)):
        return "a constant is not finite, or their product is not"
    zero = reduce(operator.or_, (c == 0 for c in constants))
    if bool((~zero & (rounded.abs() < torch.finfo(dtype).smallest_normal)).any()):
        return "the product of the constants is subnormal"
    if any(bool((partial.abs() > total.abs().clamp(min=1)).any()) for partial in accumulate(constants, operator.mul)):
        return "a partial product may overflow where the whole does not"
    return ""
