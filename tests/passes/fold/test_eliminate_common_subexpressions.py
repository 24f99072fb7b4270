"""Equal expressions are computed once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.helpers import normal, rewritten
from tests.small import apply, graph_of, module, traced
from tests.zoo import ZOO
from txgraph import PassContext
from txgraph.ir import interpret
from txgraph.passes.fold.eliminate_common_subexpressions import EliminateCommonSubexpressions

X, V = normal(2, 4), normal(4)
I = torch.arange(8).reshape(2, 4)  # noqa: E741
CSE = EliminateCommonSubexpressions()


def test_equal_operators() -> None:
    after = rewritten(CSE, lambda x: x.exp() + x.exp().sin() + x.exp().sin().neg(), X)
    assert after.count() == {"add": 2, "exp": 1, "neg": 1, "sin": 1}


def test_the_first_is_kept() -> None:
    graph = traced(lambda x: x.exp().neg() + x.exp().sin(), X)
    after, (rewrite,) = apply(CSE, graph)
    assert (rewrite.rule, rewrite.removed, rewrite.made) == ("eliminate-common-subexpressions", ("exp_1",), ())
    assert [n.name for n in after.calls()] == ["exp", "neg", "sin", "add"]


def test_arguments_of_every_kind() -> None:
    def mean(x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, x], 1).mean((0, 1), keepdim=True, dtype=torch.float32)

    assert rewritten(CSE, lambda x: mean(x) + mean(x), X).count() == {"add": 1, "cat": 1, "mean": 1}


def test_tuples_and_their_items() -> None:
    after = rewritten(CSE, lambda x: x.split(2, 1)[0].exp() + x.split(2, 1)[0].sin() + x.split(2, 1)[1], X)
    assert after.count() == {"add": 2, "exp": 1, "getitem": 2, "sin": 1, "split": 1}


def test_constants_that_are_named_twice() -> None:
    graph = traced(lambda x, w: (x * w).sin() + (x * w).cos(), X, w=V)
    (first,) = [n for n in graph.nodes if n.op == "get_attr"]
    second = [n for n in graph.calls() if n.target is torch.ops.aten.mul.Tensor][1]
    with graph.fx.inserting_before(second):
        again = graph.fx.create_node("get_attr", "w")
    again.meta["val"] = first.meta["val"]
    second.update_arg(1, again)
    after, rewrites = apply(CSE, graph)
    assert [n.name for n in after.nodes if n.op == "get_attr"] == [first.name]
    assert [r.removed for r in rewrites] == [(second.name,)]


DIFFERENT: dict[str, Callable[[torch.Tensor, torch.Tensor], Any]] = {
    "operators": lambda x, i: x.exp() + x.sin(),
    "inputs": lambda x, i: x.exp() + i.exp(),
    "numbers": lambda x, i: x * 2 + x * 3,
    "an integer and a float": lambda x, i: (i * 2) + (i * 2.0),
    "one and true": lambda x, i: (i + 1).sin() + (i + True).sin(),
    "zero and minus zero": lambda x, i: torch.full((2,), 0.0) / torch.full((2,), -0.0),
    "dtypes": lambda x, i: x.to(torch.float16).sum() + x.to(torch.bfloat16).sum(),
    "keywords": lambda x, i: torch.nn.functional.gelu(x) + torch.nn.functional.gelu(x, approximate="tanh"),
    "axes": lambda x, i: x.sum(0).sum() + x.sum(1).mean(),
    "orders": lambda x, i: (x - i).sin() + (i - x).sin(),
    "lengths": lambda x, i: torch.cat([x, x]).sum() + torch.cat([x, x, x]).sum(),
}


@pytest.mark.parametrize("function", DIFFERENT.values(), ids=list(DIFFERENT))
def test_what_differs_stays(function: Callable[[torch.Tensor, torch.Tensor], Any]) -> None:
    graph = traced(lambda x, i: function(x, i), X, I)
    after, rewrites = apply(CSE, graph)
    assert rewrites == []
    assert after.count() == graph.count()


def test_random_numbers_are_drawn_anew() -> None:
    graph = traced(lambda x: x.exp() + x.exp().neg(), X)
    for node in graph.calls():
        if node.target is torch.ops.aten.exp.default:
            node.target = torch.ops.aten.bernoulli.default
    assert CSE.run(graph, PassContext()) == []
    assert graph.count() == {"add": 1, "bernoulli": 2, "neg": 1}


def test_two_outputs_do_not_come_to_share_memory() -> None:
    after = rewritten(CSE, lambda x: (x.exp(), x.exp(), x.exp().t(), x.exp().sin()), X)
    first, second, third, _ = interpret(after, [X])
    first.zero_()
    second.zero_()
    assert torch.equal(third, X.exp().t())
    assert after.count()["exp"] == 3


def test_an_output_may_be_used_inside_too() -> None:
    after = rewritten(CSE, lambda x: (x.exp(), x.exp().sin()), X)
    assert after.count() == {"exp": 1, "sin": 1}


def test_a_written_buffer_is_read_where_it_was_read() -> None:
    def forward(x: torch.Tensor) -> torch.Tensor:
        before = model.count * 2
        model.count.add_(1)
        return x + before + model.count * 2

    model = module(forward)
    model.register_buffer("count", torch.ones(4))
    graph = graph_of(model, X)
    after, _ = apply(CSE, graph)
    assert torch.equal(interpret(after, [X])[1], X + 2 + 4)


def test_a_real_model() -> None:
    """The masks that each layer makes anew are made once."""
    architecture = ZOO["llama-sdpa"]
    graph = graph_of(architecture.model(), **architecture.inputs(2, 5), use_cache=False)
    after, rewrites = apply(CSE, graph)
    assert len(rewrites) >= 2
    assert len(after.calls()) == len(graph.calls()) - len(rewrites)
    inputs = list(architecture.inputs(2, 5).values())
    assert all(map(torch.equal, interpret(after, inputs), interpret(graph, inputs)))
