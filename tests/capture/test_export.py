"""From a module and a call to a graph: weights, mutations, symbols, and what cannot be captured."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Any

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


class Asks(nn.Module):
    """Computes a function of a tensor and a number in a tensor. torch notes the lines of a class's ``forward`` only."""

    def __init__(self, function: Callable[[torch.Tensor, torch.Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor, n: torch.Tensor) -> Any:
        return self.function(x, n)


def _sliced(x: torch.Tensor, n: torch.Tensor) -> torch.Tensor:
    return x[:, : n.item()]  # type: ignore[misc]  # a number


def _scaled(x: torch.Tensor, n: torch.Tensor) -> torch.Tensor:
    return x * n.item()


def _scaled_by_a_float(x: torch.Tensor, n: torch.Tensor) -> torch.Tensor:
    return x * x.sum().item()


def _made(x: torch.Tensor, n: torch.Tensor) -> torch.Tensor:
    size: Any = n.item()
    torch._check(size <= 4)
    return torch.cat([x, x.new_zeros(2, size)], 1)


def _listed(x: torch.Tensor, n: torch.Tensor) -> torch.Tensor:
    return x[:, n.view(1).tolist()]


def _returned(x: torch.Tensor, n: torch.Tensor) -> tuple[torch.Tensor, object]:
    return x, n.item()


def _chosen(x: torch.Tensor, n: torch.Tensor) -> torch.Tensor:
    return x[x[:, 0] > n]


def _written(x: torch.Tensor, n: torch.Tensor) -> torch.Tensor:
    return x.clone().add_(n.item())


def _branched(x: torch.Tensor, n: torch.Tensor) -> torch.Tensor:
    return x if n.item() > 3 else -x


def _whole(x: torch.Tensor, n: torch.Tensor) -> torch.Tensor:
    return x * int(n)


@pytest.mark.parametrize("dynamic", [False, True], ids=["fixed sizes", "dynamic sizes"])
@pytest.mark.parametrize(
    "function",
    [_sliced, _scaled, _scaled_by_a_float, _made, _listed, _returned, _chosen, _written, _branched, _whole],
)
def test_what_only_values_decide(function: Callable[[torch.Tensor, torch.Tensor], object], dynamic: bool) -> None:
    shapes = ({0: Dim.AUTO, 1: Dim.AUTO}, {}) if dynamic else None
    with pytest.raises(CaptureFailed) as caught:
        graph_of(Asks(function), X, torch.tensor(2), dynamic_shapes=shapes)
    place, reason, advice = str(caught.value).splitlines()
    assert re.match(r"Asks could not be captured as one graph at .*test_export\.py:\d+.*: `return .*`$", place)
    assert "only a tensor's values decide" in reason or "data-dependent" in reason
    assert "What to do: " in advice
    assert "torch.where" in advice


def test_the_line_that_asks_for_a_value() -> None:
    class Model(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            rows = x[0, 0].item()
            return x * rows

    with pytest.raises(CaptureFailed, match=r"at .*test_export\.py:\d+: `rows = x\[0, 0\]\.item\(\)`\n  %item = item"):
        graph_of(Model(), X)


def test_a_value_that_nothing_comes_of() -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        x.sum().item()
        return x + 1

    graph = graph_of(function, X, dynamic_shapes={"x": {0: Dim.AUTO}})
    assert graph.count() == {"add": 1}
    assert len(graph.ranges) == 1  # the batch's: what nothing comes of has none


def test_lines_of_code_that_torch_wrote_are_not_named() -> None:
    """Regions of autocast are traced again, from torch's own code."""

    def function(x: torch.Tensor, n: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return x * n.item()

    with pytest.raises(CaptureFailed, match=r"Asks could not be captured as one graph\n  %item = item gives a number"):
        graph_of(Asks(function), X, torch.tensor(2))


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
