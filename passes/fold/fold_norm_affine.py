"""Fold the affine part of a norm into the linears that read it.

before:  linear(layer_norm(x, [K], w, b), W, c)        linear(rms_norm(x, [K], w), W, c)
after:   linear(layer_norm(x, [K]), W * w, c + W b)    linear(rms_norm(x, [K]), W * w, c)
         x: [..., K]  w, b: [K]  W: [N, K]  c: [N]
legal:   every user of the norm is such a linear, and all are changed together; w, b, W and c are constants that no
         call changes; no other operator uses W, which is replaced, not copied; the folded values are finite, and no
         product is subnormal. Only in float32 and float64: in 16 bits K rounded weights would add up their errors
pays:    the arithmetic of the affine part and the reads of w and b; the model keeps its own W beside the new one
source:  Ashkboos et al. 2024 (SliceGPT), section 3.2
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.fx import Node

from txgraph.ir import Graph, GraphBuilder, arguments
from txgraph.passes.fold.new_weights import rounded, times, why_not_replaced
from txgraph.rewrite import Pass, PassContext, Rewrite, replace

_NORMS = (torch.ops.aten.layer_norm.default, torch.ops.aten.rms_norm.default)
_AFFINE = ("weight", "bias")


@dataclass(frozen=True)
class FoldNormAffine(Pass):
    """Leave nothing but the normalisation to a norm whose readers can do the rest."""

    @property
    def pays(self) -> bool:
        return True

    def run(self, graph: Graph, context: PassContext) -> list[Rewrite]:
        rewrites = []
        for norm in graph.calls():
            if norm.target not in _NORMS or arguments(norm)["weight"] is None or not norm.users:
                continue
            folded: dict[Node, dict[str, torch.Tensor]] = {}
            for reader in norm.users:
                values = _folded(graph, norm, reader)
                if isinstance(values, str):
                    context.decline(self, norm, values, reader)
                    break
                folded[reader] = values
            if folded.keys() == norm.users.keys() and context.permits(self, next(iter(folded))):
                rewrites.append(self._fold(graph, norm, folded))
        return rewrites

    def _fold(self, graph: Graph, norm: Node, folded: dict[Node, dict[str, torch.Tensor]]) -> Rewrite:
        scale, shift = map(arguments(norm).get, _AFFINE)
        builder = GraphBuilder(graph, norm, made_by=self.name)
        plain_arguments = (None if name in _AFFINE else value for name, value in arguments(norm).items())
        plain = builder.call(norm.target, *plain_arguments)  # type: ignore[arg-type]  # an operator
        made, linears = builder.made, {}
        for reader, values in folded.items():
            builder = GraphBuilder(graph, reader, like=[norm, reader], made_by=self.name)
            _, weight, bias = arguments(reader).values()
            sources = {"weight": (weight, scale), "bias": (bias, shift, weight)}
            held = {"weight": weight, "bias": bias}
            for name, value in values.items():
                names = [str(n.target) for n in sources[name] if n is not None]
                held[name] = builder.constant(f"{names[0]}_folded", value, names)
            linears[reader] = builder.aten.linear(plain, held["weight"], held["bias"])
            made = [*made, *builder.made]
        return replace(self.name, linears, made, [norm])


def _folded(graph: Graph, norm: Node, reader: Node) -> dict[str, torch.Tensor] | str:
    """The arguments of a reader that get new values; or why the affine part cannot be among them."""
    if reader.target is not torch.ops.aten.linear.default or arguments(reader)["input"] is not norm:
        return f"%{reader.name} uses the norm, and is no linear of it"
    nodes = [arguments(norm)["weight"], arguments(norm).get("bias"), *map(arguments(reader).get, _AFFINE)]
    problem = why_not_replaced(graph, [n for n in nodes if n is not None], nodes[2], [reader])
    if problem:
        return problem
    scale, shift, weight, bias = map(graph.constant, nodes)
    assert scale is not None, "can be replaced: a constant"
    assert weight is not None, "can be replaced: a constant"
    if scale.ndim != 1 or weight.ndim != 2:
        return f"the norm's weight has {scale.ndim} axes and the linear's {weight.ndim}, expected 1 and 2"
    if weight.dtype not in (torch.float32, torch.float64):
        return f"a folded weight would be rounded to {weight.dtype}"
    values = {"weight": times(weight, scale)}
    if shift is not None:
        moved = weight.double() @ shift.double()
        values["bias"] = rounded(moved if bias is None else moved + bias.double(), weight.dtype)
    failed = [value for value in values.values() if isinstance(value, str)]
    return failed[0] if failed else {k: v for k, v in values.items() if isinstance(v, torch.Tensor)}
