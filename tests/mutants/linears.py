"""Faults in linears, in what is folded into them, and in products of matrices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.fx import Node

from tests.mutants.edits import after, always, given, numbers, parameters, with_arguments
from tests.mutants.mutant import Fault, Mutant
from tests.mutants.operators import function_probe, model_probe
from tests.small import module
from txgraph.ir import Graph, GraphBuilder, arguments
from txgraph.passes.canonicalize.normalize_linear import NormalizeLinear
from txgraph.passes.fold import combine_constant_terms, fold_batch_norm, fold_scale_into_linear
from txgraph.passes.fold.new_weights import times
from txgraph.passes.fuse import fuse_shared_input_linears, merge_low_rank_update
from txgraph.passes.fuse.fuse_shared_input_linears import FuseSharedInputLinears
from txgraph.passes.layout.reassociate_matmuls import ReassociateMatmuls
from txgraph.passes.precision import lower_fake_quantization
from txgraph.passes.precision.int8 import Int8
from txgraph.retraining import compress
from txgraph.rewrite import Match, Rewrite

Tensor = torch.Tensor


def _addmm() -> nn.Module:
    w, b = parameters((8, 8), (8,))
    return module(lambda x: torch.addmm(b, x, w), w=w, b=b)


def _projections() -> nn.Module:
    weights, biases = parameters(*((8, 8),) * 3), parameters(*((8,),) * 3)

    def forward(x: Tensor) -> Tensor:
        q, k, v = (F.linear(x, w, b) for w, b in zip(weights, biases, strict=True))
        return torch.tanh(q) * k + torch.sin(v)

    return module(forward, weights=nn.ParameterList(weights), biases=nn.ParameterList(biases))


def _scaled_linear() -> nn.Module:
    w, b = parameters((8, 8), (8,))
    return module(lambda x: F.linear(x, w, b) * 3.0, w=w, b=b)


def _linear_of_scaled() -> nn.Module:
    w, b, c = parameters((8, 8), (8,), (8,))
    return module(lambda x: F.linear(x * c, w, b), w=w, b=b, c=c)


def _linear_and_term() -> nn.Module:
    w, b, v = parameters((8, 8), (8,), (8,))
    return module(lambda x: F.linear(x, w, b) + v, w=w, b=b, v=v)


def _batch_norm() -> nn.Module:
    torch.manual_seed(0)
    norm = nn.BatchNorm1d(6, eps=0.1)
    mean, variance, weight, bias = numbers((6,), (6,), (6,), (6,))
    norm.load_state_dict(
        {"running_mean": mean, "running_var": variance.abs(), "weight": weight, "bias": bias}, strict=False
    )
    conv = nn.Conv1d(4, 6, 3)
    return module(lambda x: norm(conv(x)), conv=conv, norm=norm)


def _updates() -> nn.Module:
    w, a, b, c, d = parameters((16, 16), (2, 16), (16, 2), (2, 16), (16, 2))

    def forward(x: Tensor) -> Tensor:
        return F.linear(x, w) + F.linear(F.linear(x, a), b) * 0.5 + F.linear(F.linear(x, c), d) * 2.0

    return module(forward, **dict(zip("wabcd", (w, a, b, c, d), strict=True)))


def _two_terms() -> nn.Module:
    b, c = parameters((8,), (8,))
    return module(lambda x: (x + b) + c, b=b, c=c)


def _weighted_term() -> nn.Module:
    b, c = parameters((8,), (8,))
    return module(lambda x: torch.add(x + b, c, alpha=3), b=b, c=c)


def _three_matrices(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return x @ (a @ b)


def _bottleneck() -> nn.Module:
    wide, narrow, bias = parameters((64, 8), (8, 64), (8,))
    return module(lambda x: F.linear(F.linear(x, wide), narrow, bias), wide=wide, narrow=narrow, bias=bias)


def _not_transposed(original: Any, self: NormalizeLinear, match: Match, g: GraphBuilder) -> Node:
    return g.aten.linear(match["x"], match["w"], match.get("b"))


def _pieces_reversed(original: Any, rule: str, values: dict[Node, Node], *rest: Any) -> Rewrite:
    record: Rewrite = original(rule, dict(zip(values, reversed(values.values()), strict=True)), *rest)
    return record


def _joint(edit: Callable[..., tuple[Any, ...]]) -> Callable[..., Rewrite]:
    """Changes what the joint operator is given: its input, weights and biases."""

    def join(original: Any, self: FuseSharedInputLinears, graph: Graph, group: list[Node]) -> Rewrite:
        record: Rewrite = original(self, graph, group)
        (joint,) = [node for node in graph.calls() if node.target is torch.ops.txgraph.linears.default]
        joint.args = edit(*joint.args)
        return record

    return join


def _scaled_along_rows(original: Any, match: Match) -> dict[str, Tensor | str]:
    weight = match.graph.constant(match["w"])
    assert weight is not None
    return {"w": times(weight, fold_scale_into_linear._factor(match)[:, None])}


def _term_subtracted(original: Any, match: Match) -> dict[str, Tensor | str]:
    bias, total = match.graph.constant(match["b"]), original(match)["b"]
    assert bias is not None
    return {"b": 2 * bias - total}


def _without_eps(original: Any, graph: Graph, norm: Node) -> Any:
    eps = arguments(norm)["eps"]
    given(norm, eps=0.0)
    try:
        return original(graph, norm)
    finally:
        given(norm, eps=eps)


def _subtracted(original: Any, match: Match) -> Tensor:
    weight = match.graph.constants[match["W"].target]
    difference: Tensor = 2 * weight - original(match)
    return difference


def _without_last(original: Any, first: Node, constants: list[Tensor]) -> Tensor:
    total: Tensor = original(first, constants[:-1])
    return total


def _other_order(original: Any, self: ReassociateMatmuls, match: Match, g: GraphBuilder) -> Node:
    return g.aten.matmul(g.aten.matmul(match["x"], match["b"]), match["a"])


def _any_sum(original: Any, value: object) -> bool:
    return isinstance(value, Node) and value.target is torch.ops.aten.add.Tensor


def _trained_in_int8() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))
    data = [(torch.randn(8, 16) * torch.linspace(0.1, 3, 16),) for _ in range(2)]
    trained = compress(layers, Int8(), calibration=data)
    return module(lambda x: trained(x), layers=trained)


def _without_divisor(original: Any, weight: Tensor, divisor: Tensor | None, bits: int, group: int) -> Any:
    return original(weight, None, bits, group)


def _largest_scale(original: Any, *args: Any) -> tuple[Tensor, Tensor]:
    values, scales = original(*args)
    return values, scales.amax().expand_as(scales).contiguous()


ADDMM = model_probe("addmm with a square weight", _addmm, 4, 8)
PROJECTIONS = model_probe("three linears of one input", _projections, 4, 8)
SCALED_LINEAR = model_probe("a linear times a number", _scaled_linear, 4, 8)
LINEAR_OF_SCALED = model_probe("a linear of scaled values", _linear_of_scaled, 4, 8)
LINEAR_AND_TERM = model_probe("a linear and a term", _linear_and_term, 4, 8)
BATCH_NORM = model_probe("batch norm after a convolution", _batch_norm, 2, 4, 9)
UPDATES = model_probe("a linear with two low-rank updates", _updates, 4, 16)
TWO_TERMS = model_probe("two constant terms", _two_terms, 4, 8)
WEIGHTED_TERM = model_probe("a constant term with a weight", _weighted_term, 4, 8)
THREE_MATRICES = function_probe("a product of three matrices", _three_matrices, (2, 16), (16, 16), (16, 16))
BOTTLENECK = model_probe("two linears over a wide axis", _bottleneck, 32, 8)

TRAINED_IN_INT8 = model_probe("linears that were trained in int8", _trained_in_int8, 8, 16)

LINEARS = (
    Mutant(
        "a divisor of the input alone",
        "the weight is quantized without the scale that moved to it from the input",
        Fault(lower_fake_quantization, "quantized_weight", _without_divisor),
        TRAINED_IN_INT8,
    ),
    Mutant(
        "one scale for a weight",
        "a weight gets the largest scale of its output channels for all of them",
        Fault(lower_fake_quantization, "quantized_weight", _largest_scale),
        TRAINED_IN_INT8,
    ),
    Mutant(
        "weight not transposed",
        "addmm's weight [K, N] is handed to linear as [N, K], where K = N",
        Fault(NormalizeLinear, "rewrite", _not_transposed),
        ADDMM,
    ),
    Mutant(
        "linear loses its bias",
        "the bias of addmm is not handed on",
        Fault(NormalizeLinear, "rewrite", with_arguments(bias=None)),
        ADDMM,
    ),
    Mutant(
        "pieces in reverse order",
        "query gets the piece of value and value that of query",
        Fault(fuse_shared_input_linears, "replace", _pieces_reversed),
        PROJECTIONS,
    ),
    Mutant(
        "joint weights in reverse order",
        "the weights are not joined in the order of the biases",
        Fault(FuseSharedInputLinears, "_join", _joint(lambda x, w, b: (x, w[::-1], b))),
        PROJECTIONS,
    ),
    Mutant(
        "joint bias in reverse order",
        "the biases are not joined in the order of the weights",
        Fault(FuseSharedInputLinears, "_join", _joint(lambda x, w, b: (x, w, b[::-1]))),
        PROJECTIONS,
    ),
    Mutant(
        "factor not applied to the bias",
        "a factor after a linear is folded into the weight alone",
        Fault(fold_scale_into_linear, "_folded", after(lambda folded: {n: v for n, v in folded.items() if n != "b"})),
        SCALED_LINEAR,
    ),
    Mutant(
        "factor along the wrong axis",
        "a factor of the inputs scales the rows of the weight",
        Fault(fold_scale_into_linear, "_folded", _scaled_along_rows),
        LINEAR_OF_SCALED,
    ),
    Mutant(
        "term with the wrong sign",
        "a term after a linear is subtracted from its bias",
        Fault(fold_scale_into_linear, "_folded", _term_subtracted),
        LINEAR_AND_TERM,
    ),
    Mutant(
        "batch norm without eps",
        "the folded scale is w / sqrt(variance)",
        Fault(fold_batch_norm, "_folded", _without_eps),
        BATCH_NORM,
    ),
    Mutant(
        "batch norm with the wrong bias",
        "the folded bias has the other sign",
        Fault(fold_batch_norm, "_folded", after(lambda folded: (folded[0], -folded[1]))),
        BATCH_NORM,
    ),
    Mutant(
        "update not scaled",
        "the scale of a low-rank update is left out",
        Fault(merge_low_rank_update, "_scales", always([])),
        UPDATES,
    ),
    Mutant(
        "update subtracted",
        "W - s B A in the place of W + s B A",
        Fault(merge_low_rank_update, "_merged", _subtracted),
        UPDATES,
    ),
    Mutant(
        "second update lost",
        "of several updates only the first is merged",
        Fault(merge_low_rank_update, "_updates", after(lambda updates: updates[:1])),
        UPDATES,
    ),
    Mutant(
        "last constant left out",
        "the constant of a chain of sums lacks the last term",
        Fault(combine_constant_terms, "_total", _without_last),
        TWO_TERMS,
    ),
    Mutant(
        "weight of a term ignored",
        "a sum with alpha is taken for a plain one",
        Fault(combine_constant_terms, "_is_link", _any_sum),
        WEIGHTED_TERM,
    ),
    Mutant(
        "factors change places",
        "x (a b) becomes (x b) a",
        Fault(ReassociateMatmuls, "rewrite", _other_order),
        THREE_MATRICES,
    ),
    Mutant(
        "bias lost between linears",
        "two linears become one without the bias",
        Fault(ReassociateMatmuls, "rewrite", with_arguments(bias=None)),
        BOTTLENECK,
    ),
)
