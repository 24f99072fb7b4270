"""What is not selected is not computed, as far as its operators treat positions one by one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.export import Dim

import txgraph
from tests.helpers import FLOATS, normal, reasons, rewritten
from tests.small import Encoder, apply, bits, find, graph_of, module, traced
from txgraph import Pipeline
from txgraph.ir import Graph, interpret, op_name, type_of
from txgraph.passes.canonicalize.normalize_views import NormalizeViews
from txgraph.passes.canonicalize.remove_identities import RemoveIdentities
from txgraph.passes.canonicalize.remove_pointless_views import RemovePointlessViews
from txgraph.passes.layout.move_selections_up import MoveSelectionsUp

RULE = MoveSelectionsUp()
X, Y = normal(2, 5, 8), normal(2, 5, 8) * 2 + 1
W = normal(6, 8)
INDEX = torch.tensor([3, 0])

Tensor = torch.Tensor
Function = Callable[..., Any]


def names(graph: Graph) -> list[str]:
    """The operators, in order."""
    return [op_name(n) for n in graph.calls()]


Selection = Callable[[Tensor, Tensor], Tensor]
SELECTIONS: dict[str, Selection] = {
    "select": lambda t, i: t[:, -1],
    "select the batch": lambda t, i: t[1],
    "slice": lambda t, i: t[:, 1:3],
    "slice with a step": lambda t, i: t[:, ::2],
    "empty slice": lambda t, i: t[:, 2:2],
    "narrow": lambda t, i: torch.narrow(t, 1, 2, 2),
    "index_select": lambda t, i: torch.index_select(t, 1, i),
    "negative axis": lambda t, i: torch.select(t, -2, 3),
}


@pytest.mark.parametrize("selection", SELECTIONS)
def test_selections(selection: str) -> None:
    select = SELECTIONS[selection]
    after = rewritten(RULE, lambda x, w, i: select(F.gelu(F.linear(x, w)), i), X, w=W, i=INDEX)
    assert names(after)[1:] == ["linear", "gelu"]
    assert after.calls()[0].args[0] is after.inputs[0]


def cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    result: Tensor = torch.ops.aten._to_copy(tensor, dtype=dtype)
    return result


OPERATORS: dict[str, Function] = {
    "linear": lambda x, w, v: F.linear(x, w, v[:6]),
    "activations": lambda x, w, v: F.silu(F.relu(x).sigmoid().tanh()),
    "arithmetic": lambda x, w, v: (-x * 2 + 1) / 3 - v**2,
    "power, clamp, where": lambda x, w, v: torch.where(x > 0, x.pow(2), x.clamp(-1, 1)),
    "layer_norm": lambda x, w, v: F.layer_norm(x, (8,), v, v),
    "rms_norm": lambda x, w, v: F.rms_norm(x, (8,), v, 1e-6),
    "softmax": lambda x, w, v: x.softmax(-1),
    "log_softmax": lambda x, w, v: F.log_softmax(x, -1),
    "casts": lambda x, w, v: cast(cast(x, torch.bfloat16), torch.float64),
    "dropout": lambda x, w, v: torch.ops.aten.dropout(x, 0.5, False).exp(),
    "copy": lambda x, w, v: x.clone().exp(),
}


@pytest.mark.parametrize("selection", ["select", "select the batch", "slice", "index_select"])
@pytest.mark.parametrize("kind", OPERATORS)
def test_operators(kind: str, selection: str) -> None:
    select = SELECTIONS[selection]
    after = rewritten(
        RULE, lambda x, w, v, i: select(OPERATORS[kind](x.sin(), w, v), i), X, w=W, v=normal(8) + 2, i=INDEX
    )
    computed = [n for n in after.calls() if "sin" in ancestors(n)]
    assert len(computed) > 1
    assert all(n.meta["val"].shape[:-1] == select(X, INDEX).shape[:-1] for n in computed)
    assert find(after, "sin").args[0].args[0] is after.inputs[0]


def ancestors(node: torch.fx.Node) -> set[str]:
    found = {op_name(node)}
    return found.union(*(ancestors(n) for n in node.all_input_nodes))


def test_softmax_along_an_axis_behind_the_selected_one() -> None:
    """The axis moves when one before it is gone."""
    x = normal(2, 3, 4, 5)
    for select in (lambda t: t[:, 1], lambda t: t[0], lambda t: t[:, 1:]):
        for axis in (2, 3, -1):
            assert names(rewritten(RULE, lambda x: select(x.softmax(axis)), x))[-1] == "softmax"  # noqa: B023
    assert names(rewritten(RULE, lambda x: x.softmax(1)[:, :, 1], x))[-1] == "softmax"


OPERANDS = [(2, 5, 8), (5, 8), (8,), (), (1, 5, 8), (2, 1, 8), (1, 1, 8), (5, 1), (1, 1), (2, 5, 1)]


@pytest.mark.parametrize("shape", OPERANDS, ids=str)
@pytest.mark.parametrize("selection", SELECTIONS)
def test_operands_that_broadcast(selection: str, shape: tuple[int, ...]) -> None:
    select = SELECTIONS[selection]
    for function in (lambda x, y, i: select(x + y, i), lambda x, y, i: select(y * x, i)):
        after = rewritten(RULE, function, X, normal(*shape) + 1, i=INDEX)
        assert names(after)[-1] in ("add", "mul")


def test_two_operands_that_broadcast() -> None:
    """Neither is as large as the result."""
    for select in SELECTIONS.values():
        after = rewritten(RULE, lambda x, y, i: select(x + y, i), normal(2, 1, 8), normal(5, 8), i=INDEX)  # noqa: B023
        assert names(after)[-1] == "add"


def test_axes_of_size_one() -> None:
    for select in (lambda t: t[:, 0], lambda t: t[:, :0], lambda t: t[:, 1:]):
        after = rewritten(RULE, lambda x, y: select(x + y), normal(2, 1, 8), normal(1, 8) + 1)  # noqa: B023
        assert names(after)[-1] == "add"


def test_an_operand_used_twice() -> None:
    after = rewritten(RULE, lambda x: (x.sin() * x.sin())[:, 0], X)
    assert after.count() == {"mul": 1, "select": 1, "sin": 2}

    def square(x: Tensor) -> Tensor:
        y = x.sin()
        return (y * y)[:, 0]

    after = rewritten(RULE, square, X)
    assert names(after) == ["select", "sin", "mul"]


def test_residuals() -> None:
    """Both ways to the sum end in one selection of their common source, which then goes on."""

    def function(x: Tensor, up: Tensor, down: Tensor) -> Tensor:
        x = x.tanh()
        x = x + F.linear(F.gelu(F.linear(x, up)), down)
        x = F.layer_norm(x, (8,))
        return (F.linear(F.gelu(F.linear(x, up)), down) + x)[:, 0]

    after = rewritten(RULE, function, X, up=normal(12, 8), down=normal(8, 12))
    assert names(after)[:2] == ["select", "tanh"]
    assert after.count()["select"] == 1
    assert all(type_of(n).rank == 2 for n in after.calls())  # type: ignore[union-attr]  # tensors


def test_deep_networks() -> None:
    """As far as it goes in one run, however many operators that are."""

    def function(x: Tensor) -> Tensor:
        for _ in range(150):
            x = x.sin()
        return x[:, 0]

    after, rewrites = apply(RULE, traced(function, X))
    assert len(rewrites) == 150
    assert names(after) == ["select"] + ["sin"] * 150


class Pooled(nn.Module):
    """An encoder of which only the first token is returned."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = Encoder().eval()

    def forward(self, ids: Tensor) -> Tensor:
        return self.encoder(ids)[1]


@pytest.mark.parametrize("dynamic", [False, True])
def test_only_the_pooler_of_an_encoder_is_returned(dynamic: bool) -> None:
    model, ids = Pooled().eval(), torch.arange(22).reshape(2, 11)
    shapes = ({0: Dim.AUTO, 1: Dim.AUTO},) if dynamic else None
    normal_form, _ = Pipeline((NormalizeViews(), RemoveIdentities(), RemovePointlessViews())).run(
        graph_of(model, ids, dynamic_shapes=shapes), txgraph.PassContext()
    )
    after, rewrites = apply(RULE, normal_form)
    assert rewrites
    on_first_tokens = [n for n in after.calls() if op_name(n) == "linear" and type_of(n).rank == 2]  # type: ignore[union-attr]
    assert len(on_first_tokens) == 4  # out, up, down, pooler; query, key and value are of all tokens
    for given in (ids, *([torch.arange(39).reshape(3, 13)] if dynamic else [])):
        torch.testing.assert_close(interpret(after, [given])[0], model(given))


def test_dynamic_sizes() -> None:
    linear = nn.Linear(8, 6)
    for select in (lambda t: t[:, -1], lambda t: t[:, 1:], lambda t: t[:, : t.shape[1] // 2], lambda t: t[1:]):
        model = module(lambda x, y: select(linear(F.gelu(x)) * y), linear=linear)  # noqa: B023
        axes = {0: Dim.AUTO, 1: Dim.AUTO}
        graph = graph_of(model, normal(4, 6, 8), normal(4, 6, 1), dynamic_shapes=(axes, axes))
        after, rewrites = apply(RULE, graph)
        assert len(rewrites) >= 3
        assert [op_name(n) for n in after.outputs] == ["mul"]
        for b, s in ((4, 6), (3, 9)):
            x, y = normal(b, s, 8), normal(b, s, 1)
            torch.testing.assert_close(interpret(after, [x, y])[0], model(x, y))


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_dtypes(dtype: torch.dtype) -> None:
    function = lambda x, w: F.layer_norm(F.gelu(F.linear(x, w)) + 1, (6,))[:, -1]  # noqa: E731
    assert names(rewritten(RULE, function, X.to(dtype), w=W.to(dtype)))[0] == "select"


EDGES: list[Callable[[Tensor], Tensor]] = [
    lambda x: x * 0,
    lambda x: x * -0.0,
    lambda x: x * 1e30,
    lambda x: x.index_fill(1, torch.tensor([1, 4]), float("nan")),
    lambda x: x.index_fill(1, torch.tensor([0]), float("nan")),
    lambda x: x.index_fill(2, torch.tensor([3]), float("inf")),
]


@pytest.mark.parametrize("edge", EDGES)
def test_edge_values_bit_for_bit(edge: Callable[[Tensor], Tensor]) -> None:
    function = lambda x, y: (F.layer_norm(x.exp() * -x, (8,)) / y).softmax(-1)[:, -1]  # noqa: E731
    graph = traced(function, X, Y)
    after, _ = apply(RULE, graph)
    x = edge(X)
    assert names(after)[0] == "select"
    assert bits(interpret(after, [x, Y])[0]).equal(bits(interpret(graph, [x, Y])[0]))


def test_a_selection_of_a_constant() -> None:
    """Its values are not looked at: the constant may change, as before."""
    after = rewritten(RULE, lambda x, c: (x + c)[:, 0], X, c=normal(5, 8))
    assert after.count() == {"add": 1, "select": 2}
    assert after.constants.frozen_values() == frozenset()


class Summing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("state", normal(5, 8))

    def forward(self, x: Tensor) -> Tensor:
        result = (x + self.state)[:, 0]
        self.state.add_(1)
        return result


def test_a_buffer_that_each_call_changes() -> None:
    model = Summing()
    fast = txgraph.optimize(model, args=(X,), passes=Pipeline((RULE,)), backend="reference")
    other = Summing()
    for _ in range(3):
        torch.testing.assert_close(fast(X), other(X))


def test_what_it_records() -> None:
    graph = traced(lambda x: x.sin()[:, 0], X)
    after, (rewrite,) = apply(RULE, graph)
    assert rewrite.rule == "move-selections-up"
    assert rewrite.removed == (find(graph, "select").name, find(graph, "sin").name)
    assert set(rewrite.made) == {n.name for n in after.calls()}


# Near misses.


def why(function: Function, *inputs: Tensor, **constants: Tensor) -> str:
    return reasons(RULE, function, *inputs, **constants)[0]


def test_a_value_used_elsewhere() -> None:
    def twice(x: Tensor) -> tuple[Tensor, Tensor]:
        y = x.sin()
        return y[:, 0], y.sum(1)

    assert "%sin is also used by %sum" in why(twice, X)

    def returned(x: Tensor) -> tuple[Tensor, Tensor]:
        y = x.sin()
        return y[:, 0], y

    assert "%sin is also used by %output" in why(returned, X)

    def two_selections(x: Tensor) -> tuple[Tensor, Tensor]:
        y = x.sin()
        return y[:, 0], y[:, 1]

    assert "%sin is also used by %select" in why(two_selections, X)


def test_inputs_and_constants() -> None:
    assert "%x is not computed" in why(lambda x: x[:, 0] + 1, X)
    assert "%c is not computed" in why(lambda x, c: x + c[0], X, c=W[:, 0])


def test_results_of_several() -> None:
    assert "is not computed by an operator" in why(lambda x: x.chunk(2, -1)[0][:, 0] + 1, X)


def test_the_last_axis() -> None:
    for select in (lambda t, i: t[..., 0], lambda t, i: t[..., :4], lambda t, i: torch.index_select(t, -1, i)):
        assert "along the last axis" in why(lambda x, w, i: select(F.linear(x, w), i), X, w=W, i=INDEX)  # noqa: B023
    assert "along the last axis" in why(lambda x: x.sin()[0], X[0, 0])


def test_operators_that_mix_the_axis() -> None:
    assert "softmax is along the same axis" in why(lambda x: x.softmax(1)[:, 0], X)
    assert "log_softmax is along the same axis" in why(lambda x: F.log_softmax(x, -2)[:, 0], X)
    assert "layer_norm is along the same axis" in why(lambda x: F.layer_norm(x, (5, 8))[:, 0], X)
    assert "rms_norm is along the same axis" in why(lambda x: F.rms_norm(x, (5, 8))[:, 0], X)
    for function in (lambda x: x.cumsum(1), lambda x: x.flip(1), lambda x: x @ x.transpose(1, 2)):
        assert "is not known to treat positions one by one" in why(lambda x: function(x)[:, 0], X)  # noqa: B023


def test_views_stay() -> None:
    assert "reshape is not known to treat" in why(lambda x: x.reshape(2, 5, 2, 4)[:, 0].sin(), X)


def test_random_operators() -> None:
    graph = traced(lambda x: torch.ops.aten.dropout(x, 0.5, True)[:, 0], X)
    assert apply(RULE, graph)[1] == []


def test_a_weight_of_one_axis() -> None:
    """The result has lost an axis: its last is one of the input's others."""
    found = why(lambda x, w: F.linear(x, w)[:, 0], normal(2, 3, 5, 8), w=normal(8))
    assert "expected two axes" in found


def test_another_layout() -> None:
    x = normal(2, 3, 4, 5)
    function = lambda x: torch.ops.aten.clone(x, memory_format=torch.channels_last)[:, 0]  # noqa: E731
    assert "another layout" in why(function, x)


def test_more_positions_than_there_are() -> None:
    many = torch.tensor([0, 1, 1, 2, 3, 4])
    function = lambda x, i: torch.index_select(x.sin(), 1, i)  # noqa: E731
    assert "more positions than there are" in why(function, X, i=many)
    assert names(rewritten(RULE, function, X, i=many[:5])) == ["index_select", "sin"]
