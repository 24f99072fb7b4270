"""What does not depend on the inputs is computed at compile time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.helpers import normal, rewritten
from tests.small import apply, bits, find, graph_of, module, traced
from tests.zoo import ZOO
from txgraph import PassContext
from txgraph.ir import GraphBuilder, interpret, op_name
from txgraph.passes.fold.fold_constants import FoldConstants

X, W, V = normal(2, 4), normal(4, 4), normal(4)
AUTO = torch.export.Dim.AUTO


def test_expressions_of_constants() -> None:
    after = rewritten(FoldConstants(), lambda x, w, v: x @ (w * v.exp() + 1), X, w=W, v=V)
    assert after.count() == {"matmul": 1}
    (name,) = after.constants
    assert name.startswith("folded_add")
    assert torch.equal(after.constants[name], W * V.exp() + 1)
    assert after.constants.sources == {name: {"w", "v"}}
    assert after.constants.frozen_values() == {"w", "v"}


def test_expressions_of_nothing() -> None:
    after = rewritten(FoldConstants(), lambda x: x + torch.arange(4) * 2 + torch.full((4,), 0.5), X)
    assert after.count() == {"add": 2}
    assert after.constants.frozen_values() == frozenset()


def test_records() -> None:
    graph = traced(lambda x, v: x * v.exp(), X, v=V)
    _, (rewrite,) = apply(FoldConstants(), graph)
    assert (rewrite.rule, rewrite.removed) == ("fold-constants", ("exp",))
    assert len(rewrite.made) == 1


def test_each_expression_is_folded_where_it_meets_the_inputs() -> None:
    def function(x: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        y = v.exp()
        return x * y + x * (y + 1) + (y + 1).sin()

    after = rewritten(FoldConstants(), function, X, v=V)
    assert after.count() == {"add": 2, "mul": 2}
    assert len(after.constants) == 3


def test_views_of_weights_stay_views() -> None:
    after = rewritten(FoldConstants(), lambda x, w: x @ w.t() + x @ w.t()[:, :4], X, w=W)
    assert list(after.constants) == ["w"]
    assert after.constants["w"].data_ptr() == W.data_ptr()


def test_views_of_folded_values_stay_views_of_them() -> None:
    after = rewritten(FoldConstants(), lambda x, w: x @ (w * 2).t() + (w * 2)[0], X, w=W)
    assert not {"mul", "exp"} & after.count().keys()
    assert all(name.startswith("folded_mul") for name in after.constants)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x + x.new_ones(2, 4),
        lambda x: x + x.new_zeros(4) + x.new_full((4,), 3.0),
        lambda x: x + torch.ones_like(x) + torch.zeros_like(x) + torch.full_like(x, 2.0),
    ],
)
def test_operators_that_look_at_a_type_only(function: Callable[[torch.Tensor], torch.Tensor]) -> None:
    after = rewritten(FoldConstants(), lambda x: function(x), X)
    assert set(after.count()) == {"add"}


# -- what is not folded --------------------------------------------------------------------------------------------


def test_outputs_are_computed_at_each_call() -> None:
    """Their owner may write to them: what is written must not be the next call's answer."""

    def function(x: torch.Tensor, w: torch.Tensor) -> tuple[torch.Tensor, ...]:
        y = w * 2
        return x + y[0], y, (w * 3).t(), w.exp() + 1

    after = rewritten(FoldConstants(), function, X, w=W)
    outputs = interpret(after, [X])
    expected = [o.clone() for o in outputs]
    for output in outputs:
        output.fill_(9)
    assert all(map(torch.equal, interpret(after, [X]), expected))
    assert after.count()["mul"] == 2
    assert "exp" not in after.count()


def test_what_depends_on_an_input() -> None:
    graph = traced(lambda x, w: (x @ w).sum() + x.sum(0), X, w=W)
    assert apply(FoldConstants(), graph)[1] == []


def test_random_numbers() -> None:
    graph = traced(lambda x, w: x @ w.exp(), X, w=W.abs())
    find(graph, "exp").target = torch.ops.aten.bernoulli.default
    assert FoldConstants().run(graph, PassContext()) == []


def test_buffers_that_the_model_writes_to() -> None:
    model = module(lambda x: x + model.count.add_(1) * 2 + model.scale * 3)
    model.register_buffer("count", torch.zeros(4))
    model.register_buffer("scale", torch.ones(4))
    after, (rewrite,) = apply(FoldConstants(), graph_of(model, X))
    assert "count" in after.constants
    assert list(after.constants.sources.values()) == [{"scale"}]
    assert rewrite.removed[0].startswith("mul")


def test_symbolic_sizes() -> None:
    graph = graph_of(
        lambda x: x + torch.arange(x.shape[1]) + torch.ones(x.shape[0], 1) + torch.ones(1) * 2,
        X,
        dynamic_shapes={"x": {0: AUTO, 1: AUTO}},
    )
    after, rewrites = apply(FoldConstants(), graph)
    assert len(rewrites) == 1
    assert {op_name(n) for n in after.calls()} >= {"arange", "ones"}
    for shape in ((2, 4), (3, 7)):
        x = torch.ones(shape)
        assert torch.equal(interpret(after, [x])[0], interpret(graph, [x])[0])


def test_large_results_are_declined() -> None:
    """1 KiB, made of 16 bytes."""
    graph = traced(lambda x, v: x[0, 0] + (v.expand(64, 4) + 1), X, v=V)
    assert len(apply(FoldConstants(), graph)[1]) == 1
    assert len(apply(FoldConstants(max_bytes=1024), graph)[1]) == 1
    assert apply(FoldConstants(max_bytes=1023), graph)[1] == []


def test_a_result_no_larger_than_its_sources_is_always_folded() -> None:
    graph = traced(lambda x, w: x @ (w * 2), X, w=W)
    assert len(apply(FoldConstants(max_bytes=0), graph)[1]) == 1


def test_dead_expressions_are_left_to_dead_code_elimination() -> None:
    graph = traced(lambda x, w: x @ w, X, w=W)
    node = next(n for n in graph.nodes if n.op == "get_attr")
    GraphBuilder(graph, graph.output).aten.exp(node)
    assert FoldConstants().run(graph, PassContext()) == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_values_are_those_of_eager_bit_by_bit(dtype: torch.dtype) -> None:
    w = torch.tensor([0.1, -0.0, float("inf"), float("nan"), 3.0]).to(dtype)
    graph = traced(lambda x, w: x + w.exp() * 3, torch.ones(5, dtype=dtype), w=w)
    after, _ = apply(FoldConstants(), graph)
    (folded,) = after.constants.values()
    assert torch.equal(bits(folded), bits(w.exp() * 3))


def test_a_real_model() -> None:
    """With a static length BERT's position and token type embeddings are one table each."""
    architecture = ZOO["bert-sdpa"]
    inputs: dict[str, Any] = architecture.inputs(2, 6)
    graph = graph_of(architecture.model(), **inputs)
    after, rewrites = apply(FoldConstants(), graph)
    assert graph.count()["embedding"] == 3
    assert after.count()["embedding"] == 1
    assert "embeddings.position_embeddings.weight" in after.constants.frozen_values()
    assert "embeddings.position_embeddings.weight" not in after.constants
    assert all(map(torch.equal, interpret(after, list(inputs.values())), interpret(graph, list(inputs.values()))))
    assert apply(FoldConstants(), after)[1] == []
    assert all(r.module or r.location for r in rewrites)
