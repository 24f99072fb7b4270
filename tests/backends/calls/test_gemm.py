"""Which linears are measured, what is made of them, and that no weight is copied."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tests.small import MLP, find, graph_of, traced
from txgraph.backends.calls import gemm
from txgraph.backends.calls.onednn import onednn_linear
from txgraph.ir import Graph, GraphBuilder, check_spec, interpret
from txgraph.verify import check_gates

pytestmark = pytest.mark.skipif(onednn_linear() is None, reason="this torch is built without oneDNN")

X, W, B = torch.ones(2, 3, 4), torch.ones(5, 4), torch.ones(5)
ONEDNN = "txgraph::linear_onednn"


Ways = Mapping[str, Callable[[], object]]


def wins(name: str, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Every measurement says that one way is the fastest, or torch's own where that is not tried; nothing is run.

    Returns:
        what was to be measured, so far.
    """
    tried: list[list[str]] = []

    def decided(ways: Ways, seconds: float, about: str, before: Callable[[], object]) -> tuple[str, str]:
        tried.append(list(ways))
        return (name if name in ways else "aten", "measured")

    monkeypatch.setattr(gemm, "fastest", decided)
    return tried


@pytest.fixture
def onednn_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    wins("oneDNN", monkeypatch)


def linear(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None = None) -> torch.Tensor:
    return F.linear(x, w, b)


@pytest.mark.usefixtures("onednn_wins")
def test_the_numbers_are_eagers_within_the_gates() -> None:
    torch.manual_seed(0)
    x, w, b = torch.randn(2, 3, 4), torch.randn(5, 4), torch.randn(5)
    graph = traced(linear, x, w=w, b=b)
    assert gemm.choose_gemms(graph) == {"linear 6x4x5": "measured"}
    assert graph.count() == {ONEDNN: 1}
    check_spec(graph)
    eager, oracle = F.linear(x, w, b), F.linear(x.double(), w.double(), b.double())
    assert [g for g in check_gates(interpret(graph, [x]), [eager], [oracle]) if not g.passed] == []


@pytest.mark.usefixtures("onednn_wins")
def test_no_weight_is_copied() -> None:
    model = MLP()
    graph = graph_of(model, torch.ones(2, 4)).copy()
    names, pointers = list(graph.constants), {t.data_ptr() for t in graph.constants.values()}
    gemm.choose_gemms(graph)
    assert graph.count()[ONEDNN] == 2
    assert list(graph.constants) == names
    assert {t.data_ptr() for t in graph.constants.values()} == pointers == {p.data_ptr() for p in model.parameters()}
    assert graph.constants.frozen_values() == frozenset()


@pytest.mark.usefixtures("onednn_wins")
@pytest.mark.parametrize(
    ("function", "inputs", "constants"),
    [
        (linear, [X.double()], {"w": W.double(), "b": B.double()}),
        (linear, [X.bfloat16()], {"w": W.bfloat16(), "b": B.bfloat16()}),
        (lambda x, w: F.linear(x, w), [X, W], {}),
        (lambda x: x @ x.mT, [X], {}),
        (linear, [torch.ones(0, 4)], {"w": W, "b": B}),
    ],
    ids=["float64", "bfloat16", "a weight that is an input", "another operator", "an empty input"],
)
def test_what_is_left_alone(function: Callable[..., Any], inputs: list[Any], constants: dict[str, Any]) -> None:
    graph = traced(function, *inputs, **constants)
    text = str(graph)
    assert gemm.choose_gemms(graph) == {}
    assert str(graph) == text


def test_what_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Our kernel: weights that all lie by rows, or all by columns."""
    tried = wins("aten", monkeypatch)

    def ways(function: Callable[..., Any], x: torch.Tensor, *weights: torch.Tensor) -> list[str]:
        gemm.choose_gemms(traced(function, x, **dict(zip("wv", weights, strict=False))))
        return tried[-1]

    every = ["aten", "oneDNN", "txgraph"]
    assert ways(lambda x, w: F.linear(x, w), torch.ones(1, 4), W) == every
    assert ways(lambda x, w: F.linear(x, w.transpose(0, 1)), torch.ones(1, 5), W) == every
    assert ways(lambda x, w: F.linear(x, w), torch.ones(1, 4), torch.ones(5, 8)[:, ::2]) == ["aten", "oneDNN"]
    two = lambda x, w, v: torch.ops.txgraph.linears(x, [w, v], [None, None])  # noqa: E731
    assert ways(two, X, W, W + 1) == every
    assert ways(two, X, torch.ones(4, 5).t(), torch.ones(4, 5).t() + 1) == every
    assert ways(two, X, W, torch.ones(4, 5).t()) == ["aten", "oneDNN"]


@pytest.mark.parametrize("faster", ["oneDNN", "txgraph", "aten"])
def test_linears_of_one_input(faster: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Taken together by our kernel, each by itself by the libraries; the weights stay the model's own."""
    wins(faster, monkeypatch)
    x, a, b, c = torch.randn(2, 3, 4), torch.randn(5, 4), torch.randn(7, 4), torch.randn(7)

    def function(x: torch.Tensor, a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        first, second = torch.ops.txgraph.linears(x, [a, b], [None, c])
        return torch.cat([second, first], -1)

    graph = traced(function, x, a=a, b=b, c=c)
    assert gemm.choose_gemms(graph) == {"linear 6x4x5+7": "measured"}
    check_spec(graph)
    counts = {"oneDNN": {ONEDNN: 2}, "txgraph": {"txgraph::linears_native": 1, "getitem": 2}, "aten": {"linear": 2}}
    assert graph.count() == {"cat": 1, **counts[faster]}
    assert set(graph.constants) == {"a", "b", "c"}
    assert graph.constants.frozen_values() == frozenset()
    eager = torch.cat([F.linear(x, b, c), F.linear(x, a)], -1)
    oracle = torch.cat([F.linear(x.double(), b.double(), c.double()), F.linear(x.double(), a.double())], -1)
    assert [g for g in check_gates(interpret(graph, [x]), [eager], [oracle]) if not g.passed] == []


def test_runs_take_turns_with_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that was just used lies in the cache, and is read faster than in a model."""
    taken = []

    def turns(ways: Ways, seconds: float, about: str, before: Callable[[], object]) -> tuple[str, str]:
        for _ in range(3):
            for way in ways.values():
                way()
        return "aten", ""

    def record(x: torch.Tensor, weight: torch.Tensor | list[torch.Tensor], *others: Any) -> torch.Tensor:
        taken.append(int(weight[0][0, 0] if isinstance(weight, list) else weight[0, 0]))
        return x

    graph = traced(lambda x, a, b, c: F.linear(x, a) + F.linear(x, b) + F.linear(x, c), X, a=1 * W, b=2 * W, c=3 * W)
    monkeypatch.setattr(gemm, "fastest", turns)
    monkeypatch.setattr(gemm, "_linear_onednn", record)
    monkeypatch.setattr(gemm, "linears_native", record)
    monkeypatch.setattr(gemm.F, "linear", record)
    gemm.choose_gemms(graph)
    assert taken == [1, 2, 3] * 3


@pytest.mark.usefixtures("onednn_wins")
@pytest.mark.parametrize("shape", [(4,), (1, 4), (7, 4), (2, 3, 5, 4)])
def test_ranks(shape: tuple[int, ...]) -> None:
    x = torch.ones(shape)
    graph = traced(lambda x, w: F.linear(x, w), x, w=W)
    rows = x.numel() // 4
    assert list(gemm.choose_gemms(graph)) == [f"linear {rows}x4x5"]
    assert torch.equal(interpret(graph, [x])[0], F.linear(x, W))


@pytest.mark.usefixtures("onednn_wins")
def test_a_dynamic_number_of_rows() -> None:
    """Measured at the size of the example, right at every size."""
    shapes = {"x": {0: torch.export.Dim.AUTO}, "scale": None}
    model = MLP()
    graph = graph_of(model, torch.ones(6, 4), scale=2.0, dynamic_shapes=shapes).copy()
    assert list(gemm.choose_gemms(graph)) == ["linear 6x4x8", "linear 6x8x4"]
    for rows in (2, 6, 33):
        x = torch.randn(rows, 4)
        eager = model(x, 2.0)
        oracle = MLP().double()(x.double(), 2.0)
        assert [g for g in check_gates(interpret(graph, [x]), [eager], [oracle]) if not g.passed] == []


@pytest.mark.parametrize("activation", ["silu", "tanh"])
@pytest.mark.parametrize("faster", ["oneDNN", "txgraph", "aten"])
def test_activations(faster: str, activation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = wins(faster, monkeypatch)
    graph = traced(linear, X, w=W, b=B)
    node = find(graph, "linear")
    activated = GraphBuilder(graph, node).txgraph.linear_activation(*node.args, activation)
    node.replace_all_uses_with(activated)
    graph.eliminate_dead_code()
    assert list(gemm.choose_gemms(graph)) == [f"linear 6x4x5 + {activation}"]
    counts = {
        "oneDNN": {ONEDNN: 1},
        "txgraph": {"txgraph::linears_native": 1, "getitem": 1},
        "aten": {"txgraph::linear_activation": 1},
    }
    assert graph.count() == counts[faster if faster in tried[0] else "aten"]
    assert ("txgraph" in tried[0]) is (activation == "silu")  # it does not compute tanh
    x = torch.linspace(-1, 1, 24).reshape(2, 3, 4)
    function = getattr(torch.nn.functional, activation)
    eager, oracle = function(F.linear(x, W, B)), function(F.linear(x.double(), W.double(), B.double()))
    assert [g for g in check_gates(interpret(graph, [x]), [eager], [oracle]) if not g.passed] == []


def test_other_weights_are_read_before_each_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a model the weights of a layer come from memory: those of the others were used since."""
    read: list[tuple[int, ...]] = []
    monkeypatch.setattr(gemm, "fastest", lambda ways, seconds, about, before: (before(), ("aten", ""))[1])
    monkeypatch.setattr(gemm, "PIECE", 10)
    constants = {"a": W, "b": torch.ones(10, 5), "c": torch.ones(1, 4), "d": torch.ones(10, 2)[:, :1]}
    graph = traced(lambda x, a, b, c, d: F.linear(F.linear(x, a), b) * d.mT + c.max(), X, **constants)
    small = traced(lambda x, c: F.linear(x, c), X, c=torch.ones(1, 4))
    monkeypatch.setattr(torch.Tensor, "sum", lambda self: read.append(tuple(self.shape)))
    gemm.choose_gemms(graph)
    assert read == [(10,), (10,), (6, 4), (10,), (10,), (6, 5)]
    read.clear()
    gemm.choose_gemms(small)
    assert read == [(6, 4)] * 3  # nothing but the input


def test_equal_shapes_are_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    tried, square = wins("aten", monkeypatch), torch.ones(4, 4)

    def function(x: torch.Tensor, w: torch.Tensor, v: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return F.linear(F.linear(F.linear(x, w, b), v, b), v)

    gemm.choose_gemms(traced(function, X, w=square, v=square + 1, b=torch.ones(4)))
    assert len(tried) == 2  # with and without bias


def test_without_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = wins("oneDNN", monkeypatch)
    monkeypatch.setattr(gemm, "onednn_linear", lambda: None)
    graph: Graph = traced(linear, X, w=W, b=B)
    gemm.choose_gemms(graph)
    assert tried == [["aten", "txgraph"]]
    assert gemm.fused_activations() == frozenset({"relu", "gelu", "gelu_tanh", "quick_gelu", "silu", "sigmoid"})
    assert graph.count() == {"linear": 1}


def test_torch_accepts_the_operator() -> None:
    arguments = (torch.randn(2, 3, 4), torch.randn(5, 4), torch.randn(5), "relu")
    tests = ("test_schema", "test_faketensor")
    result = torch.library.opcheck(torch.ops.txgraph.linear_onednn.default, arguments, test_utils=tests)
    assert set(result.values()) == {"SUCCESS"}
