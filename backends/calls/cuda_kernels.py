"""Operators of ``txgraph::`` on CUDA: our Triton kernels where nothing in torch serves, else ATen that Inductor fuses.

before:  txgraph::ragged_attention(...), txgraph::int8_linears(...), txgraph::weight_only_linears(...)
after:   txgraph::ragged_attention_triton(...); for each weight txgraph::int8_linear_triton(...) and
         txgraph::weight_only_linear_triton(...), and what activation they lack
before:  txgraph::quantize_rows(x, d), txgraph::fake_quantize_rows(x, d)
after:   their definitions, which become one kernel with what comes before them
legal:   float32, float16 and bfloat16; heads of at most 256 features. Others stay: they run by their definitions, which
         are for all devices
why:     docs/cuda.md
"""

from __future__ import annotations

import torch
from torch.fx import Node

from txgraph.backends.calls.linears import put
from txgraph.backends.kernels.quantized import DEEPEST
from txgraph.ir import Graph, GraphBuilder, arguments, type_of
from txgraph.ir.activations import activate
from txgraph.ir.quantized import LARGEST

_RAGGED = torch.ops.txgraph.ragged_attention.default
_QUANTIZE = torch.ops.txgraph.quantize_rows.default
_FAKE_QUANTIZE = torch.ops.txgraph.fake_quantize_rows.default
_INT8 = torch.ops.txgraph.int8_linears.default
_WEIGHT_ONLY = torch.ops.txgraph.weight_only_linears.default


def lower_for_cuda(graph: Graph) -> None:
    """Rewrite each of these operators in ``graph``."""
    if not any(node.target in (_RAGGED, _QUANTIZE, _FAKE_QUANTIZE, _INT8, _WEIGHT_ONLY) for node in graph.calls()):
        return
    for node in graph.calls():
        if node.target is _RAGGED:
            _attend(graph, node)
        elif node.target in (_INT8, _WEIGHT_ONLY):
            _multiply(graph, node)
        elif node.target in (_QUANTIZE, _FAKE_QUANTIZE):
            _quantize(graph, node)
    graph.eliminate_dead_code()


def _attend(graph: Graph, node: Node) -> None:
    from txgraph.backends.kernels.gpu.attention import DTYPES, LARGEST_HEAD

    named = arguments(node)
    operands = [named[name].meta["val"] for name in ("query", "key", "value")]
    if any(each.dtype not in DTYPES or not _is_at_most(each.shape[-1], LARGEST_HEAD) for each in operands):
        return
    del named["enable_gqa"]  # the numbers of heads say it
    put(graph, node, [GraphBuilder(graph, node).txgraph.ragged_attention_triton(*named.values())])


def _multiply(graph: Graph, node: Node) -> None:
    from txgraph.backends.kernels.gpu.linears import ACTIVATIONS, DTYPES

    named, eight = arguments(node), node.target is _INT8
    first = named["scales" if eight else "input"].meta["val"]
    depth = named["values" if eight else "input"].meta["val"].shape[-1]
    if first.dtype not in ((torch.float32,) if eight else DTYPES) or not _is_at_most(depth, DEEPEST):
        return
    g, wanted, results = GraphBuilder(graph, node), named["activation"], []
    inside = wanted if wanted in ACTIVATIONS else ""
    for weight, scales, bias in zip(named["weights"], named["weight_scales"], named["biases"], strict=True):
        rest = (weight, scales, bias, inside)
        if eight:
            result = g.txgraph.int8_linear_triton(named["values"], named["scales"], *rest)
        else:
            result = g.txgraph.weight_only_linear_triton(named["input"], *rest, named["bits"], named["group"])
        results.append(result if inside == wanted else activate(g, result, wanted))
    put(graph, node, results)


def _quantize(graph: Graph, node: Node) -> None:
    """Write the definition of :func:`txgraph.ir.quantized.quantize_rows`."""
    named = arguments(node)
    source = type_of(named["input"])
    assert source is not None, "a tensor"
    if not isinstance(source.shape[-1], int) or not source.shape[-1]:
        return
    g = GraphBuilder(graph, node)
    aten = g.aten
    x = aten._to_copy.default(named["input"], dtype=torch.promote_types(source.dtype, torch.float32))
    x = x if named["divisor"] is None else aten.div.Tensor(x, named["divisor"])
    most = aten.amax.default(aten.abs.default(x), [-1], True)
    factor = aten.mul.Tensor(aten.reciprocal.default(most), LARGEST)
    usable = aten.logical_and.default(aten.gt.Scalar(factor, 0), aten.isfinite.default(factor))
    rounded = aten.where.ScalarOther(usable, aten.round.default(aten.mul.Tensor(x, factor)), 0)
    values = aten._to_copy.default(rounded, dtype=torch.int8)
    unusable = aten.where.ScalarSelf(aten.lt.Scalar(most, 1), 0.0, most)
    scales = aten.where.self(usable, aten.div.Tensor(most, LARGEST), unusable)
    if node.target is _QUANTIZE:
        put(graph, node, [values, scales])
    else:
        product = aten.mul.Tensor(aten._to_copy.default(values, dtype=scales.meta["val"].dtype), scales)
        put(graph, node, [aten._to_copy.default(product, dtype=source.dtype)])


def _is_at_most(size: int | torch.SymInt, most: int) -> bool:
    return isinstance(size, int) and size <= most
