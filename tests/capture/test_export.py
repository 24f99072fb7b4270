"""From a module and a call to a graph: weights, mutations, symbols, and what cannot be captured."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.export import Dim
from torch.utils import _pytree as pytree

from tests.small import MLP, Linear, graph_of, module
from tests.zoo import ZOO
from txgraph import CaptureFailed
from txgraph.capture import capture
from txgraph.ir import Mutation, check_spec, interpret

X = torch.linspace(-1, 1, 8).reshape(2, 4)


def test_inputs_are_the_tensors_of_the_call_in_order() -> None:
    class Model(nn.Module):
        def forward(self, pair: tuple[torch.Tensor, int], named: dict[str, torch.Tensor], flag: bool) -> torch.Tensor:
            return pair[0] * pair[1] + named["b"] if flag else named["a"]

    graph = graph_of(Model(), (X, 3), {"b": X + 1, "a": X}, flag=True)
    assert [n.target for n in graph.inputs] == ["pair_0", "named_b", "named_a"]
    assert torch.equal(interpret(graph, [X, X + 1, X])[0], X * 3 + (X + 1))
    check_spec(graph)


def test_the_structure_of_the_output() -> None:
    captured = capture(module(lambda x: {"a": x, "b": (x + 1, None, [3])}), (X,), {})
    assert pytree.tree_unflatten([0, 1, 2, 3], captured.out_spec) == {"a": 0, "b": (1, 2, [3])}


def test_the_inputs_and_the_model_are_not_touched() -> None:
    model = MLP()
    state = {k: (v.data_ptr(), v._version) for k, v in model.state_dict(keep_vars=True).items()}
    x = X.t().contiguous().t().requires_grad_()
    version = x._version
    graph_of(model, x)
    assert x.requires_grad
    assert not x.is_contiguous()
    assert x._version == version
    assert {k: (v.data_ptr(), v._version) for k, v in model.state_dict(keep_vars=True).items()} == state
    assert all(isinstance(p, nn.Parameter) for p in model.parameters())


@pytest.mark.parametrize(
    ("model", "mutations"),
    [
        (module(lambda x: x.add_(1).mul_(2)), (Mutation("input", "x"),)),
        (module(lambda x: x[:, 0].zero_().sum()), (Mutation("input", "x"),)),
        (module(lambda x: x.clone().add_(1)), ()),
        (nn.BatchNorm1d(4).train(), "running"),
    ],
    ids=["in-place", "through a view", "of a copy", "batch norm"],
)
def test_mutations(model: nn.Module, mutations: object) -> None:
    graph = graph_of(model, X)
    if mutations == "running":
        names = ["running_mean", "running_var", "num_batches_tracked"]
        assert sorted(m.target for m in graph.mutations) == sorted(names)
        assert {m.kind for m in graph.mutations} == {"buffer"}
    else:
        assert graph.mutations == mutations
    check_spec(graph)


def test_symbols_and_ranges() -> None:
    batch = Dim("batch", min=2, max=16)
    graph = graph_of(MLP(), X, dynamic_shapes={"x": {0: batch}})
    ((symbol, bounds),) = graph.ranges.items()
    assert graph.symbols == {symbol: "B"}
    assert bounds == (2, 16)
    graph = graph_of(MLP(), X, dynamic_shapes={"x": {0: Dim.AUTO}})
    assert list(graph.ranges.values()) == [(2, None)]
    assert graph_of(MLP(), X).symbols == {}


def test_the_pre_dispatch_operators_are_whole() -> None:
    architecture = ZOO["bert-sdpa"]
    counts = graph_of(architecture.model(), **architecture.inputs(2, 6)).count()
    assert counts["scaled_dot_product_attention"] == 2
    assert counts["layer_norm"] == 5
    assert counts["gelu"] == 2
    assert counts["linear"] == 13
    assert not {"dropout", "_assert_tensor_metadata", "to", "contiguous"} & counts.keys()


# -- what cannot be captured ---------------------------------------------------------------------------------------


class Branch(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.sum() > 0:
            return x + 1
        return x - 1


class Item(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[: int(x[0, 0].item())]


class Numpy(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(x.numpy() * 2)


class Raises(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise OSError("no such file")


@pytest.mark.parametrize(
    ("kind", "line"),
    [(Branch, "if x.sum() > 0:"), (Item, "return x[: int(x[0, 0].item())]"), (Raises, 'raise OSError("no such file")')],
)
def test_the_users_line_is_named(kind: type[nn.Module], line: str) -> None:
    with pytest.raises(CaptureFailed) as caught:
        graph_of(kind(), X)
    message = str(caught.value)
    number = kind.forward.__code__.co_firstlineno + 1
    assert message.startswith(
        f"{kind.__name__} could not be captured as one graph at {__file__}:{number} in forward: `{line}`"
    )
    assert "torch.where" in message
    assert "options={'allow_fallback': True}" in message
    assert caught.value.__cause__ is not None


def test_the_reason_is_given() -> None:
    with pytest.raises(CaptureFailed, match="OSError: no such file"):
        graph_of(Raises(), X)
    with pytest.raises(CaptureFailed, match=r"Data-?[dD]ependent|data-dependent"):
        graph_of(Branch(), X)


def test_a_plain_attribute_that_is_written_to() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.total = torch.zeros(4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.total += x[0]
            return x + self.total

    model = Model()
    with pytest.raises(CaptureFailed, match="total is mutated in the forward method"):
        graph_of(model, X)
    assert torch.equal(model.total, torch.zeros(4))


def test_an_output_that_is_no_container_torch_knows() -> None:
    @dataclasses.dataclass
    class Output:
        value: torch.Tensor

    with pytest.raises(CaptureFailed, match=r"\n.*Output.* in output, which is not a known type"):
        graph_of(lambda x: Output(x), X)


def test_a_registered_dataclass_as_output() -> None:
    @dataclasses.dataclass
    class Registered:
        value: torch.Tensor
        size: int

    torch.export.register_dataclass(Registered, serialized_type_name="tests.Registered")
    captured = capture(module(lambda x: Registered(x * 2, 3)), (X,), {})
    output = pytree.tree_unflatten(interpret(captured.graph, [X]), captured.out_spec)
    assert type(output) is Registered
    assert torch.equal(output.value, X * 2)
    assert output.size == 3


@pytest.mark.parametrize(
    ("model", "operator"),
    [
        (nn.Sequential(Linear(), nn.Dropout(0.5)).train(), "native_dropout"),
        (module(lambda x: x + torch.rand(4)), "rand"),
        (module(lambda x: torch.bernoulli(x.abs())), "bernoulli"),
    ],
)
def test_random_numbers(model: nn.Module, operator: str) -> None:
    with pytest.raises(CaptureFailed, match=rf"draws random numbers at %{operator}.*call model.eval\(\)"):
        graph_of(model, X)


IDLE = {
    "a module": nn.Dropout(0.5).eval(),
    "a function": lambda x: F.dropout(x, 0.5, training=False),
    "an operator": lambda x: torch.dropout(train=False, p=0.5, input=x),
    "probability zero": nn.Dropout(0.0).train(),
}


@pytest.mark.parametrize("dropout", IDLE.values(), ids=IDLE)
def test_dropout_that_is_not_active_is_its_input(dropout: Callable[[torch.Tensor], torch.Tensor]) -> None:
    graph = graph_of(lambda x: (dropout(x), dropout(dropout(x)).t(), x.clone()), X)
    assert graph.count() == {"clone": 1, "t": 1}
    ours, copied = interpret(graph, [X])[0], interpret(graph, [X])[2]
    assert ours.data_ptr() == X.data_ptr() != copied.data_ptr()


@pytest.mark.parametrize("dropout", IDLE.values(), ids=IDLE)
def test_writes_to_what_dropout_gives_reach_its_input(dropout: Callable[[torch.Tensor], torch.Tensor]) -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        dropout(x).add_(1)
        return x * 2

    graph = graph_of(function, X)
    assert graph.mutations == (Mutation("input", "x"),)
    assert all(torch.equal(*pair) for pair in zip(interpret(graph, [X]), (X + 1, (X + 1) * 2), strict=True))


def test_dropout_in_a_region_of_autocast() -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return F.dropout(x, 0.5, training=False)

    assert graph_of(function, X).count() == {}


def test_control_flow_operators() -> None:
    model = module(lambda x: torch.cond(x.sum() > 0, lambda x: x + 1, lambda x: x - 1, (x,)))
    with pytest.raises(CaptureFailed):
        graph_of(model, X)


def test_a_failed_capture_leaves_the_model_usable() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = Linear()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.layer(x)
            return x + 1 if x.sum() > 0 else x - 1

    model = Model()
    expected = model(X)
    with pytest.raises(CaptureFailed):
        graph_of(model, X)
    assert torch.equal(model(X), expected)
    assert all(type(p) is nn.Parameter for p in model.parameters())


def test_values_that_broadcast_into_what_they_are_written_to() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mean", torch.ones(1))
            self.register_buffer("count", torch.zeros(2, dtype=torch.int64))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.mean.copy_(x.mean())
            self.count.copy_(x.sum() * 10)
            x.copy_(x[:1] * 2)
            return x - self.mean

    graph, eager, x = graph_of(Model(), X.clone()), Model(), X.clone()
    outputs = interpret(graph, [X.clone()])
    result = eager(x)
    for output, expected in zip(outputs, (eager.mean, eager.count, x, result), strict=True):
        assert output.dtype == expected.dtype
        assert torch.equal(output, expected)


def test_views_of_what_operators_really_give() -> None:
    """Of a transposed value, batch norm gives another layout than its shape function says."""
    norm = nn.BatchNorm1d(4).eval()
    model = module(lambda x: norm(x.transpose(1, 2)).transpose(1, 2).reshape(-1, 4) + 1, norm=norm)
    x = torch.linspace(-1, 1, 24).reshape(2, 3, 4)
    with torch.no_grad():
        assert torch.equal(interpret(graph_of(model, x), [x])[0], model(x))
