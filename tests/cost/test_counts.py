"""FLOPs and bytes of known operators, by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.export import Dim
from torch.fx import Node
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from tests.small import Encoder, find, graph_of, traced
from txgraph.cost import bytes_moved, flops
from txgraph.cost.adapter import UNKNOWN_SIZE, size_hint
from txgraph.cost.counts import traffic
from txgraph.ir import Graph, GraphBuilder
from txgraph.ir.ops import ACTIVATIONS

X, W, B = torch.ones(2, 3, 8), torch.ones(5, 8), torch.ones(5)
HEADS = torch.ones(2, 4, 6, 8)  # batch, heads, length, width
PRODUCT = 2 * (2 * 3) * 8 * 5  # of X and W


def last(function: Callable[..., Any], *inputs: torch.Tensor) -> Node:
    """The node that computes the function's result."""
    (output,) = traced(function, *inputs).outputs
    assert isinstance(output, Node)
    return output


PRODUCTS = {
    "linear": (lambda x, w, b: F.linear(x, w, b), (X, W, B), PRODUCT),
    "linear without bias": (lambda x, w: F.linear(x, w), (X, W), PRODUCT),
    "linear of a vector": (lambda x, w: F.linear(x, w), (X[0, 0], W), 2 * 8 * 5),
    "matmul": (lambda a, b: a @ b, (HEADS, HEADS.mT), 2 * (2 * 4) * 6 * 8 * 6),
    "matmul that broadcasts": (lambda a, b: a @ b, (HEADS, HEADS[:1, :1].mT), 2 * (2 * 4) * 6 * 8 * 6),
    "matmul with a vector": (lambda a, b: a @ b, (W, X[0, 0]), 2 * 5 * 8),
    "matmul of vectors": (lambda a, b: a @ b, (X[0, 0], X[0, 1]), 2 * 8),
    "addmv": (lambda c, a, b: torch.addmv(c, a, b), (B, W, X[0, 0]), 2 * 5 * 8),
    "addmm": (lambda c, a, b: torch.addmm(c, a, b), (B, X[0], W.t()), 2 * 3 * 8 * 5),
    "int8": (lambda a, b: torch._int_mm(a, b), (torch.ones(32, 8).char(), torch.ones(8, 16).char()), 2 * 32 * 8 * 16),
    "einsum": (lambda a, b: torch.einsum("bhqd,bhkd->bhqk", a, b), (HEADS, HEADS), 2 * (2 * 4) * 6 * 8 * 6),
    "conv1d": (lambda x, w: F.conv1d(x, w), (torch.ones(2, 8, 10), torch.ones(5, 8, 3)), 2 * 2 * (10 - 2) * 5 * 8 * 3),
    "attention": (
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v),
        (HEADS, HEADS, HEADS),
        2 * 2 * (2 * 4) * 6 * 6 * 8,
    ),
    "grouped attention": (
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, enable_gqa=True),
        (HEADS, HEADS[:, :2], HEADS[:, :2]),
        2 * 2 * (2 * 4) * 6 * 6 * 8,
    ),
    "linear_activation": (
        lambda x, w, b: torch.ops.txgraph.linear_activation(x, w, b, "gelu"),
        (X, W, B),
        PRODUCT + 2 * 3 * 5,
    ),
    "linears": (
        lambda x, w, b: torch.ops.txgraph.linears(x, [w, w[:2]], [b, None]),
        (X, W, B),
        PRODUCT + PRODUCT // 5 * 2,
    ),
    "int8 linears": (
        lambda x, s, w, ws: torch.ops.txgraph.int8_linears(x, s, [w, w[:2]], [ws, ws[:2]], [None, None], "gelu"),
        (X.char(), torch.ones(2, 3, 1), W.char(), B),
        PRODUCT + PRODUCT // 5 * 2,
    ),
    "4-bit linears": (
        lambda x, w, s: torch.ops.txgraph.weight_only_linears(x, [w], [s], [None], "", 4, 32),
        (torch.ones(3, 64), torch.ones(5, 32).byte(), torch.ones(5, 2)),
        2 * 3 * 64 * 5,
    ),
    "capped attention": (
        lambda q, k, v: torch.ops.txgraph.softcap_attention(q, k, v, None, 0.5, 5.0),
        (HEADS, HEADS, HEADS[..., :3]),
        2 * (2 * 4) * 6 * 6 * (8 + 3),
    ),
    "experts": (
        lambda x, w, e: torch.ops.txgraph.expert_linear(x, w, e),
        (X[0], torch.ones(7, 5, 8), torch.zeros(3, dtype=torch.int64)),
        2 * 3 * 8 * 5,
    ),
}


@pytest.mark.parametrize(("rows", "read"), [(0, 0), (1, 1), (3, 3), (7, 7), (20, 7)])
def test_no_more_experts_are_read_than_there_are_rows(rows: int, read: int) -> None:
    inputs = torch.ones(rows, 8), torch.ones(7, 5, 8), torch.zeros(rows, dtype=torch.int64)
    node = last(lambda x, w, e: torch.ops.txgraph.expert_linear(x, w, e), *inputs)
    assert bytes_moved(node) == 4 * (rows * 8 + read * 5 * 8 + 2 * rows + rows * 5)


@pytest.mark.parametrize("name", PRODUCTS)
def test_flops_of_products(name: str) -> None:
    function, inputs, expected = PRODUCTS[name]
    graph = traced(function, *inputs)
    assert sum(map(flops, graph.nodes)) == expected


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_inside_a_linear_cost_no_bytes(activation: str) -> None:
    node = last(lambda x, w, b: torch.ops.txgraph.linear_activation(x, w, b, activation), X, W, B)
    assert bytes_moved(node) == bytes_moved(last(lambda x, w, b: F.linear(x, w, b), X, W, B))


ELEMENTWISE = {
    "add": (lambda a, b: a + b, (X, X), 48, 3 * 48 * 4),
    "add that broadcasts": (lambda a, b: a + b, (X, X[0, 0]), 48, (48 + 8 + 48) * 4),
    "add of itself": (lambda a: a + a, (X,), 48, 2 * 48 * 4),
    "mul by a number": (lambda a: a * 2, (X,), 48, 2 * 48 * 4),
    "gelu": (lambda a: F.gelu(a), (X,), 48, 2 * 48 * 4),
    "comparison": (lambda a, b: a < b, (X, X), 48, 2 * 48 * 4 + 48),
    "cast": (lambda a: a.to(torch.bfloat16), (X,), 48, 48 * 4 + 48 * 2),
    "sum": (lambda a: a.sum(-1), (X,), 48, (48 + 6) * 4),
    "softmax": (lambda a: a.softmax(-1), (X,), 48, 2 * 48 * 4),
    "layer_norm": (lambda a, w, b: F.layer_norm(a, [8], w, b), (X, W[0], W[1]), 48, (2 * 48 + 2 * 8) * 4),
    "cat": (lambda a, b: torch.cat([a, b]), (X, X), 96, 2 * 96 * 4),
    "embedding": (lambda i, t: F.embedding(i, t), (torch.ones(3, dtype=torch.long), torch.ones(100, 8)), 24, 24 + 192),
    "index": (lambda i, t: t[i], (torch.ones(2, dtype=torch.long), torch.ones(100, 8)), 16, 2 * 8 + 2 * 64),
    "embedding of a whole small table": (
        lambda i, t: F.embedding(i, t),
        (torch.ones(9, dtype=torch.long), torch.ones(2, 8)),
        72,
        9 * 8 + (16 + 72) * 4,
    ),
    "one_hot": (lambda i: F.one_hot(i, 8), (torch.ones(3, dtype=torch.long),), 24, 3 * 8 + 24 * 8),
    "zeros_like": (lambda a: torch.zeros_like(a), (X,), 48, 48 * 4),
    "arange": (lambda a: torch.arange(10), (X,), 10, 80),
    "two results": (lambda a: a.topk(2).values, (X,), 48, 48 * 4 + 12 * 4 + 12 * 8),
    "a copying reshape": (lambda a: a.mT.reshape(48), (X,), 48, 2 * 48 * 4),
}


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_operators_without_products(name: str) -> None:
    function, inputs, expected_flops, expected_bytes = ELEMENTWISE[name]
    nodes = [n for n in traced(function, *inputs).calls() if bytes_moved(n)]
    node = nodes[-1]
    assert (flops(node), bytes_moved(node)) == (expected_flops, expected_bytes)


def test_bytes_of_products() -> None:
    assert bytes_moved(last(lambda x, w, b: F.linear(x, w, b), X, W, B)) == (48 + 40 + 5 + 30) * 4
    assert bytes_moved(last(lambda x, w: F.linear(x, w), X.bfloat16(), W.bfloat16())) == (48 + 40 + 30) * 2


def test_attention_keeps_no_scores_and_reads_its_mask() -> None:
    mask = torch.ones(2, 1, 6, 6, dtype=torch.bool)
    plain = last(lambda q, k, v: F.scaled_dot_product_attention(q, k, v), HEADS, HEADS, HEADS)
    masked = last(lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, m), HEADS, HEADS, HEADS, mask)
    assert bytes_moved(plain) == 4 * HEADS.numel() * 4
    assert bytes_moved(masked) == bytes_moved(plain) + mask.numel()


VIEWS: list[Callable[[torch.Tensor], Any]] = [
    lambda x: x.view(6, 8),
    lambda x: x.reshape(6, 8),
    lambda x: x.mT.reshape(2, 2, 4, 3),  # splits an axis of a transposed tensor
    lambda x: x.transpose(0, 1),
    lambda x: x.unsqueeze(0),
    lambda x: x[:, 1:],
    lambda x: x.expand(5, 2, 3, 8),
    lambda x: x.split(1)[1],
    lambda x: x.contiguous(),
    lambda x: x.to(torch.float32),
]


@pytest.mark.parametrize("function", VIEWS)
def test_views_cost_nothing(function: Callable[[torch.Tensor], Any]) -> None:
    graph = traced(function, X)
    assert [(flops(n), bytes_moved(n)) for n in graph.nodes] == [(0, 0)] * len(graph)


def test_a_reshape_and_a_contiguous_that_copy_are_no_views() -> None:
    for function in (lambda x: x.mT.reshape(48), lambda x: x.mT.contiguous()):
        assert bytes_moved(last(function, X)) == 2 * 48 * 4


def test_an_expanded_axis_is_read_once_and_a_slice_is_read_in_part() -> None:
    assert bytes_moved(last(lambda x: x[:1].expand(7, 3, 8) * 2, X)) == (24 + 7 * 24) * 4
    assert bytes_moved(last(lambda x: x[:1] * 2, X)) == 2 * 24 * 4


def test_views_of_one_value_are_read_at_most_once() -> None:
    halves = last(lambda x: x[..., :4] * x[..., 4:], X)
    turned = last(lambda x: x.view(6, 8) + x.view(2, 3, 8).view(6, 8), X)
    assert bytes_moved(halves) == (48 + 24) * 4
    assert bytes_moved(turned) == 2 * 48 * 4


def test_a_kernel_moves_what_crosses_its_border() -> None:
    graph = traced(lambda x, y: (torch.relu(x * 2) + y).view(6, 8), X, X)
    assert traffic(graph.calls()[:-1]) == 3 * 48 * 4  # x and y read, the sum written; the product and relu stay inside
    seen = traced(lambda x, y: ((h := torch.relu(x * 2)) + y, h.view(6, 8)), X, X)
    assert traffic([n for n in seen.calls() if flops(n)]) == 4 * 48 * 4  # relu is seen through a view, too


def test_a_new_node_that_nothing_uses_yet_is_written() -> None:
    graph = traced(lambda x: x * 2, X)
    new = GraphBuilder(graph, before=graph.output).aten.relu(graph.inputs[0])
    assert not new.users
    assert bytes_moved(new) == 2 * 48 * 4


def test_an_empty_tensor_costs_nothing() -> None:
    node = last(lambda x: x * 2, torch.ones(0, 8))
    assert (flops(node), bytes_moved(node)) == (0, 0)


def dynamic_encoder() -> tuple[Graph, ShapeEnv]:
    ids, axes = torch.zeros(2, 8, dtype=torch.long), {0: Dim.AUTO, 1: Dim.AUTO}
    mask = torch.ones(2, 8)
    graph = graph_of(Encoder(), ids, mask, dynamic_shapes={"input_ids": axes, "attention_mask": axes})
    return graph, find(graph, "tanh").meta["val"].shape[0].node.shape_env


def test_symbolic_sizes_count_by_their_hints_and_add_no_guards() -> None:
    graph, shapes = dynamic_encoder()
    text, replacements, ranges = str(graph), dict(shapes.replacements), dict(shapes.var_to_range)
    guards = len(shapes.guards)
    counted = [(n.name, flops(n), bytes_moved(n)) for n in graph.calls()]
    assert len(shapes.guards) == guards
    assert not shapes.deferred_runtime_asserts
    assert (dict(shapes.replacements), dict(shapes.var_to_range)) == (replacements, ranges)
    assert str(graph) == text
    static = graph_of(Encoder(), torch.zeros(2, 8, dtype=torch.long), torch.ones(2, 8))
    expected = [(flops(n), bytes_moved(n)) for n in static.calls()]
    assert [c[1:] for c in counted if any(c[1:])] == [pair for pair in expected if any(pair)]
    assert bool(find(graph, "tanh").meta["val"].shape[0] == 2)  # this does add a guard: it would have been seen
    assert len(shapes.guards) > guards


def test_a_size_without_a_hint_counts_by_a_stated_one() -> None:
    shapes = ShapeEnv()
    size = shapes.create_unbacked_symint()
    assert size_hint(3 * size) == 3 * UNKNOWN_SIZE
    assert not shapes.guards
