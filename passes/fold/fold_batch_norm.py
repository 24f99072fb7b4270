"""Fold batch normalisation into the convolution or linear before it.

before:  batch_norm(conv(x, W, b), w, c, mean, variance, eps)     W: [N, ...]  b, w, c, mean, variance: [N]
after:   conv(x, W * s, (b - mean) * s + c)                       s = w / sqrt(variance + eps): [N]
legal:   the norm uses its running statistics (eval mode) and normalises the axis that the convolution makes: the
         first but one of a batch; W and all [N] are constants that no call changes; the convolution is not used
         elsewhere, and neither is W, which is replaced, not copied; the folded values are finite, and no product is
         subnormal. Only in float32 and float64: in 16 bits rounded weights would add up their errors
pays:    1 read and 1 write of the convolution's result (bytes) less; the model keeps its own W beside the new one
source:  Jacob et al. 2018, section 3.2; Ioffe & Szegedy 2015, section 3.1
"""

from __future__ import annotations

import operator
from dataclasses import dataclass

import torch
from torch.fx import Node

from txgraph.ir import Graph, GraphBuilder, arguments, packet_of, type_of
from txgraph.passes.fold.new_weights import rounded, times, why_not_replaced
from txgraph.rewrite import Pass, PassContext, Rewrite, replace

_aten = torch.ops.aten
_PRODUCERS = (_aten.linear, _aten.conv1d, _aten.conv2d, _aten.conv3d)


@dataclass(frozen=True)
class FoldBatchNorm(Pass):
    """No normalisation at run time by statistics that are known before."""

    @property
    def pays(self) -> bool:
        return True

    def run(self, graph: Graph, context: PassContext) -> list[Rewrite]:
        rewrites = []
        for norm in graph.calls():
            if norm.target is not _aten._native_batch_norm_legit_no_training.default:
                continue
            problem = _problem(graph, norm)
            if problem:
                context.decline(self, norm, problem)
                continue
            weight, bias = _folded(graph, norm)
            if isinstance(weight, str):
                context.decline(self, norm, weight)
            elif isinstance(bias, str):
                context.decline(self, norm, bias)
            elif context.permits(self, next(iter(norm.users))):
                rewrites.append(self._fold(graph, norm, weight, bias))
        return rewrites

    def _fold(self, graph: Graph, norm: Node, weight: torch.Tensor, bias: torch.Tensor) -> Rewrite:
        producer, results = arguments(norm)["input"], list(norm.users)
        named, sources = arguments(producer), [str(n.target) for n in _constants(norm)]
        builder = GraphBuilder(graph, norm, like=[norm, producer], made_by=self.name)
        named["weight"] = builder.constant(f"{sources[0]}_folded", weight, sources)
        named["bias"] = builder.constant(f"{producer.name}_bias_folded", bias, sources)
        new = builder.call(producer.target, *named.values())
        return replace(self.name, dict.fromkeys(results, new), builder.made, [norm, producer])


def _constants(norm: Node) -> list[Node]:
    """What is folded, the weight first."""
    _, weight, bias, *statistics = list(arguments(norm).values())[:5]
    read = arguments(arguments(norm)["input"])
    return [n for n in (read["weight"], read["bias"], weight, bias, *statistics) if n is not None]


def _problem(graph: Graph, norm: Node) -> str:
    """Why the norm cannot be part of what it reads; else empty."""
    producer = arguments(norm)["input"]
    if packet_of(producer) not in _PRODUCERS:
        return f"expected a convolution or linear, found %{producer.name}"
    others = [user for user in producer.users if user is not norm]
    if others:
        return f"inner value %{producer.name} is also used by %{others[0].name}"
    if any(user.target is not operator.getitem or user.args[1] != 0 for user in norm.users):
        return "more than the normalised values is used"
    result, weight = type_of(producer), type_of(arguments(producer)["weight"])
    assert result is not None, "schema: a tensor"
    assert weight is not None, "schema: a tensor"
    if result.rank != weight.rank:
        return f"the second axis of {result} is not the one that %{producer.name} makes"
    if weight.dtype not in (torch.float32, torch.float64):
        return f"a folded weight would be rounded to {weight.dtype}"
    return why_not_replaced(graph, _constants(norm), _constants(norm)[0], [producer])


def _folded(graph: Graph, norm: Node) -> tuple[torch.Tensor | str, torch.Tensor | str]:
    """New weight and bias of what the norm reads; a text says why there is none."""
    read, named = (
        {name: graph.constant(value) for name, value in arguments(node).items()}
        for node in (arguments(norm)["input"], norm)
    )
    weight, mean, variance = read["weight"], named["running_mean"], named["running_var"]
    assert weight is not None, "no problem: a constant"
    assert mean is not None, "no problem: a constant"
    assert variance is not None, "no problem: a constant"
    scale = (variance.double() + arguments(norm)["eps"]).rsqrt()
    if named["weight"] is not None:
        scale = named["weight"].double() * scale
    bias = -mean.double() if read["bias"] is None else read["bias"].double() - mean.double()
    bias = bias * scale if named["bias"] is None else bias * scale + named["bias"].double()
    return times(weight, scale.view(-1, *[1] * (weight.ndim - 1))), rounded(bias, weight.dtype)
