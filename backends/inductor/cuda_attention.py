"""Which of torch's attention kernels a CUDA graph calls, where torch cannot choose: it is asked on the device.

before:  scaled_dot_product_attention(q, k, v, mask, ...)
after:   _scaled_dot_product_flash_attention(q, k, v, ...)             float16 and bfloat16 without a mask
         _scaled_dot_product_efficient_attention(q, k, v, bias, ...)   others with 4 axes and equal numbers of heads
         _scaled_dot_product_attention_math(q, k, v, mask, ...)        the rest
legal:   the conditions of each kernel, as torch states them. On the device, torch may take cuDNN's where this takes
         one of the first two.
source:  pytorch/aten/src/ATen/native/transformers/cuda/sdp_utils.cpp, and attention.cpp for the mask
"""

from __future__ import annotations

import math
import operator

import torch
from torch.fx import Node

from txgraph.backends.gpus import Gpu
from txgraph.ir import Graph, GraphBuilder, arguments, type_of
from txgraph.ir.node import same_size

_ATTENTION = torch.ops.aten.scaled_dot_product_attention.default
LARGEST_FLASH_HEAD = 256


def choose_cuda_attention(graph: Graph, gpu: Gpu) -> None:
    """Write each attention of ``graph`` as the kernel that it is computed by on ``gpu``."""
    for node in graph.calls():
        if node.target is _ATTENTION:
            node.replace_all_uses_with(_computed(GraphBuilder(graph, node), node, gpu))
            graph.fx.erase_node(node)


def _computed(g: GraphBuilder, node: Node, gpu: Gpu) -> Node:
    named = arguments(node)
    query, key, value, mask = (named[name] for name in ("query", "key", "value", "attn_mask"))
    causal, scale = named["is_causal"], named["scale"]
    if _fits_flash(query, key, value, mask, causal, gpu):
        results = g.aten._scaled_dot_product_flash_attention.default(query, key, value, 0.0, causal, scale=scale)
    elif _fits_efficient(query, key, value, mask, gpu):
        bias = None if mask is None else _bias(g, query, key, mask)
        results = g.aten._scaled_dot_product_efficient_attention.default(
            query, key, value, bias, False, 0.0, causal, scale=scale
        )
    else:
        results = g.aten._scaled_dot_product_attention_math.default(
            query, key, value, mask, 0.0, causal, scale=scale, enable_gqa=named["enable_gqa"]
        )
    return g.call(operator.getitem, results, 0)


def _fits_flash(query: Node, key: Node, value: Node, mask: Node | None, causal: bool, gpu: Gpu) -> bool:
    q, k, v = (node.meta["val"] for node in (query, key, value))
    if mask is not None or gpu.number < 80 or q.dtype not in (torch.float16, torch.bfloat16) or not _alike(q, k, v):
        return False
    square = same_size(q.shape[2], k.shape[2])
    head = int(q.shape[3])
    return (square or not causal) and head == int(v.shape[3]) and head % 8 == 0 and head <= LARGEST_FLASH_HEAD


def _fits_efficient(query: Node, key: Node, value: Node, mask: Node | None, gpu: Gpu) -> bool:
    q, k, v = (node.meta["val"] for node in (query, key, value))
    if q.dtype not in (torch.float32, torch.float16, torch.bfloat16) or not _alike(q, k, v):
        return False
    if mask is not None and mask.meta["val"].ndim not in (2, 4):
        return False
    tensor_cores = gpu.number >= 80 or q.dtype is torch.float16  # they read 16 bytes at a time
    aligned = 16 // q.dtype.itemsize if tensor_cores else 1
    return int(q.shape[3]) % aligned == 0 and int(v.shape[3]) % aligned == 0


def _alike(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> bool:
    """Whether all have 4 axes, sizes of heads that do not vary, one batch and one number of heads, and some tokens."""
    if {q.ndim, k.ndim, v.ndim} != {4} or not all(isinstance(each.shape[3], int) for each in (q, k, v)):
        return False
    if any(same_size(size, 0) for each in (q, k, v) for size in each.shape):
        return False
    return all(same_size(q.shape[axis], each.shape[axis]) for axis in (0, 1) for each in (k, v))


def _bias(g: GraphBuilder, query: Node, key: Node, mask: Node) -> Node:
    """A mask as a term of the scores ``[B, H, S, T]`` in the dtype of the query; Inductor aligns it."""
    tensor_type = type_of(query)
    assert tensor_type is not None, "an operand of attention"
    if mask.meta["val"].dtype is torch.bool:
        mask = g.aten.where.Scalar(mask, 0.0, -math.inf)
    bias = g.aten._to_copy.default(mask, dtype=tensor_type.dtype)
    sizes = [g.size(query, 0), g.size(query, 1), g.size(query, 2), g.size(key, 2)]
    return g.aten.expand.default(bias, sizes)
