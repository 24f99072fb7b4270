"""The Inductor backend: numbers, generated code, weights that are not copied, the choice of GEMMs."""

from __future__ import annotations

import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.export import Dim

import txgraph
from tests.small import MLP, assert_as_eager, traced
from txgraph.backends.calls import gemm
from txgraph.backends.calls.onednn import onednn_linear
from txgraph.backends.inductor import InductorBackend
from txgraph.backends.inductor.adapter import compile_graph
from txgraph.backends.inductor.generated import Generated
from txgraph.ir.ops import ACTIVATIONS
from txgraph.options import BackendOptions, Target
from txgraph.verify import check_gates

needs_onednn = pytest.mark.skipif(onednn_linear() is None, reason="this torch is built without oneDNN")


def test_private_names_are_where_they_were() -> None:
    """Tells when a private torch name of the adapter moves."""
    graph = torch.fx.Graph()
    x = graph.placeholder("x")
    with torch._subclasses.FakeTensorMode() as mode:
        x.meta["val"] = mode.from_tensor(torch.ones(3))
    graph.output((graph.call_function(torch.ops.aten.add.Tensor, (x, 1)),))
    for _ in range(2):  # also when it comes from torch's cache
        compiled = compile_graph(torch.fx.GraphModule(nn.Module(), graph), [x.meta["val"]], {})
        assert torch.equal(compiled(torch.ones(3))[0], torch.full((3,), 2.0))
        assert "def call" in compiled.source
        assert len(compiled.launches) == 1


def test_settings_reach_inductor() -> None:
    with pytest.raises(txgraph.BackendFailed, match="no_such_setting"):
        txgraph.optimize(MLP(), args=(torch.ones(2, 4),), options={"inductor": {"no_such_setting": 1}})


def test_weights_are_the_models_own() -> None:
    model = MLP()
    fast = txgraph.optimize(model, args=(torch.ones(2, 4),), backend="inductor")
    own = {p.data_ptr() for p in model.parameters()}
    constants = fast.graph_after.constants
    assert {t.data_ptr() for t in constants.values()} == own
    with torch.no_grad():
        model.up.weight.mul_(2)  # not folded: seen without compiling anew
    assert_as_eager(fast(torch.ones(2, 4)), model, torch.ones(2, 4))
    assert len(fast.report.graphs) == 1


@needs_onednn
@pytest.mark.parametrize("activation", sorted(gemm.WAYS["oneDNN"].fused))
@pytest.mark.parametrize("bias", [True, False])
def test_onednn_linear_holds_the_gates(activation: str, bias: bool) -> None:
    torch.manual_seed(0)
    x, w, b = torch.randn(3, 5, 16), torch.randn(8, 16), torch.randn(8) if bias else None
    function = ACTIVATIONS.get(activation, torch.clone)
    ours = torch.ops.txgraph.linear_onednn(x, w, b, activation)
    eager = function(F.linear(x, w, b))
    oracle = function(F.linear(x.double(), w.double(), None if b is None else b.double()))
    assert [str(g) for g in check_gates([ours], [eager], [oracle]) if not g.passed] == []
    transposed = torch.ops.txgraph.linear_onednn(x, w.t().contiguous().t(), b, activation)
    assert [str(g) for g in check_gates([transposed], [eager], [oracle]) if not g.passed] == []


@needs_onednn
@pytest.mark.parametrize("faster", ["aten", "oneDNN", "txgraph"])
def test_the_faster_library_is_used(faster: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The decision follows the measurement, and both decisions give the right numbers."""
    monkeypatch.setattr(gemm, "fastest", lambda ways, *_: (faster, f"{faster} (measured)"))
    model = MLP()
    fast = txgraph.optimize(model, args=(torch.ones(2, 4),), backend="inductor")
    choices = fast.report.to_dict()["graphs"][0]["choices"]
    assert set(choices) == {"linear 2x4x8 + gelu", "linear 2x8x4"}
    assert all(choice.startswith(faster) for choice in choices.values())
    operators = {"oneDNN": "linear_onednn", "txgraph": "linears_native"}
    assert {name for name, each in operators.items() if each in fast.code()} == {faster} - {"aten"}
    assert fast.report.fallbacks == []


@needs_onednn
def test_the_measurement_is_real() -> None:
    """All ways are run; the report carries their times."""
    fast = txgraph.optimize(MLP(), args=(torch.ones(2, 4),), backend="inductor", verify="off")
    choice = fast.report.to_dict()["graphs"][0]["choices"]["linear 2x8x4"]
    seconds = {way: int(time) for time, way in re.findall(r"(\d+) µs (\w+)", choice)}
    assert set(seconds) == {"aten", "oneDNN", "txgraph"}
    assert all(time > 0 for time in seconds.values())
    assert seconds[choice.partition(" ")[0]] == min(seconds.values())


def test_a_backend_that_computes_wrongly_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """A miscompiled graph breaks a gate; the verified graph is interpreted instead, and counted."""
    from txgraph.backends.inductor import lower

    monkeypatch.setattr(
        lower, "compile_graph", lambda module, examples, settings: Generated(_wrong(module), "", (), {})
    )
    model = torch.nn.Sequential(
        MLP(), torch.nn.Softmax(-1), torch.nn.LayerNorm(4)
    ).eval()  # there is something to compile
    fast = txgraph.optimize(model, args=(torch.ones(2, 4),), backend="inductor")
    assert_as_eager(fast(torch.ones(2, 4)), model, torch.ones(2, 4))
    (fallback,) = fast.report.to_dict()["fallbacks"]
    assert fallback["what"] == "backend inductor"
    assert "G2" in fallback["reason"]


def _wrong(module: torch.fx.GraphModule):  # type: ignore[no-untyped-def]
    return lambda *tensors: [value + 0.01 for value in module(*tensors)]


def test_experts() -> None:
    """An operator that looks at data stays as it is, between what Inductor generates."""

    def function(x: torch.Tensor, e: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = torch.ops.txgraph.expert_linear(x * 2, w, e).relu()
        return result

    torch.manual_seed(0)
    x, e, w = torch.randn(12, 8), torch.arange(12) * 5 % 3, torch.randn(3, 6, 8)
    compiled = InductorBackend().lower(traced(function, x, e, w=w), Target("cpu"), BackendOptions())
    for expert in (e, e.flip(0), e * 0):
        torch.testing.assert_close(compiled.run([x, expert])[0], function(x, expert, w))


def test_sizes_that_vary_and_are_equal_in_the_example() -> None:
    model = torch.nn.Embedding(11, 8).eval()
    axes = ({0: Dim.AUTO, 1: Dim.AUTO},)
    fast = txgraph.optimize(model, (torch.zeros(3, 3, dtype=torch.int64),), dynamic_shapes=axes, backend="inductor")
    ids = torch.arange(20).reshape(4, 5) % 11
    assert torch.equal(fast(ids), model(ids))
    assert len(fast.report.graphs) == 1
