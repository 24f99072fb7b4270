"""The way through Inductor: what is handed over, what is refused, and what a failure says."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import txgraph
from tests.small import MLP, find, graph_of, traced
from txgraph import BackendFailed, BackendOptions, Target
from txgraph.backends.inductor import InductorBackend, lower
from txgraph.backends.inductor.generated import Generated
from txgraph.ir import GraphBuilder, interpret
from txgraph.ir.ops import ACTIVATIONS
from txgraph.verify import check_gates

X = torch.linspace(-1, 1, 8).reshape(2, 4)
CPU = Target("cpu")


@pytest.fixture
def handed_over(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Stands in for torch's compiler: interprets, and keeps what it was given."""
    seen: dict[str, Any] = {}

    def compile_graph(module: torch.fx.GraphModule, examples: Sequence[Any], settings: Any) -> Generated:
        def run(*tensors: torch.Tensor) -> Any:
            seen["tensors"] = tensors
            return module(*tensors)

        seen.update(module=module, examples=examples, settings=settings)
        return Generated(run, "the code", (), {})

    monkeypatch.setattr(lower, "compile_graph", compile_graph)
    monkeypatch.setattr(lower, "choose_gemms", lambda *_: {"linear": "aten"})
    return seen


def test_the_weights_are_handed_over_at_each_call(handed_over: dict[str, Any]) -> None:
    model = MLP()
    graph = graph_of(model, X)
    text = str(graph)
    compiled = InductorBackend().lower(graph, CPU, BackendOptions(inductor={"max_autotune": True}))
    assert (compiled.code, compiled.choices) == ("the code", {"linear": "aten"})
    assert handed_over["settings"] == {"max_autotune": True}
    assert torch.equal(compiled.run([X])[0], model(X))
    pointers = [t.data_ptr() for t in handed_over["tensors"]]
    assert sorted(pointers[:-1]) == sorted(p.data_ptr() for p in model.parameters())
    assert pointers[-1] == X.data_ptr()
    module = handed_over["module"]
    assert not list(module.parameters()) + list(module.buffers())
    assert [n for n in module.graph.nodes if n.op == "get_attr"] == []
    assert len(handed_over["examples"]) == 5
    with torch.no_grad():
        model.up.weight.mul_(2)
    assert torch.equal(compiled.run([X])[0], model(X))
    assert str(graph) == text


def test_a_constant_that_is_used_twice_is_handed_over_once(handed_over: dict[str, Any]) -> None:
    graph = traced(lambda x, w: (x @ w) @ w, X, w=torch.eye(4))
    (first,) = [n for n in graph.nodes if n.op == "get_attr"]
    with graph.fx.inserting_before(first):
        again = graph.fx.create_node("get_attr", "w")
    again.meta["val"] = first.meta["val"]
    graph.calls()[-1].replace_input_with(first, again)
    assert torch.equal(InductorBackend().lower(graph, CPU, BackendOptions()).run([X])[0], X)
    assert len(handed_over["tensors"]) == 2


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_fused_activations_that_stayed_are_written_out(activation: str, handed_over: dict[str, Any]) -> None:
    w, b = torch.linspace(-1, 1, 12).reshape(3, 4), torch.ones(3)
    graph = traced(lambda x, w, b: F.linear(x, w, b), X, w=w, b=b)
    node = find(graph, "linear")
    node.replace_all_uses_with(GraphBuilder(graph, node).txgraph.linear_activation(*node.args, activation))
    graph.eliminate_dead_code()
    compiled = InductorBackend().lower(graph, CPU, BackendOptions())
    names = {str(n.target).split(".")[0] for n in handed_over["module"].graph.nodes if n.op == "call_function"}
    assert names == {"aten"}
    assert torch.equal(compiled.run([X])[0], interpret(graph, [X])[0])


def test_symbolic_sizes_stay_symbolic(handed_over: dict[str, Any]) -> None:
    graph = graph_of(MLP(), X, dynamic_shapes={"x": {0: torch.export.Dim.AUTO}})
    InductorBackend().lower(graph, CPU, BackendOptions())
    *weights, x = handed_over["examples"]
    assert isinstance(x.shape[0], torch.SymInt)
    assert all(isinstance(size, int) for w in weights for size in w.shape)


def test_what_is_on_another_device_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = graph_of(MLP(), X)
    monkeypatch.setattr(
        torch.cuda, "is_available", lambda: True
    )  # else the GPU is absent, and tensors are expected here
    assert InductorBackend().unsupported(graph, CPU) == []
    reasons = InductorBackend().unsupported(graph, Target("cuda"))
    assert len(reasons) == len(list(graph.nodes)) - 1
    assert all(reason.endswith("is on cpu, the target is cuda") for reason in reasons)
    assert any(reason.startswith("%gelu = gelu in") for reason in reasons)


def test_activations_are_fused_on_cpus_only() -> None:
    backend = InductorBackend()
    assert backend.fused_activations(Target("cuda")) == frozenset()
    assert backend.fused_activations(CPU) <= frozenset(ACTIVATIONS)


def normed() -> torch.nn.Module:
    """A model in which there is something to compile: linears alone would be called."""
    return torch.nn.Sequential(MLP(), torch.nn.LayerNorm(4), torch.nn.Softmax(-1)).eval()


def test_what_only_calls_kernels_is_not_compiled() -> None:
    fast = txgraph.optimize(MLP(), (X,), backend="inductor")
    assert {kernel.kind for kernel in fast.kernels()} <= {"interpreted", "txgraph", "library"}
    assert fast.report.fallbacks == []


def test_a_failing_compiler_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object) -> None:
        raise RuntimeError("first line\nsecond line")

    monkeypatch.setattr(lower, "compile_graph", broken)
    model = normed()
    with pytest.raises(BackendFailed, match=r"^Inductor failed on this graph: RuntimeError: first line$") as caught:
        txgraph.optimize(model, (X,), backend="inductor")
    assert isinstance(caught.value.__cause__, RuntimeError)
    fast = txgraph.optimize(model, backend="inductor", options={"allow_fallback": True})
    assert torch.equal(fast(X), model(X))
    assert "Inductor failed on this graph" in fast.report.fallbacks[0].reason


def test_code_that_the_cpp_compiler_refuses_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise RuntimeError("no such register\nsecond line")

    monkeypatch.setattr(lower, "compiled_together", lambda: contextlib.nullcontext(refuse))
    with pytest.raises(BackendFailed, match=r"^Inductor failed on this graph: RuntimeError: no such register$"):
        txgraph.optimize(normed(), (X,), backend="inductor")


def test_what_fails_beside_inductor_is_not_laid_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object) -> None:
        raise KeyError("ours")

    monkeypatch.setattr(lower, "write_in_place", broken)
    with pytest.raises(KeyError, match="ours"):
        txgraph.optimize(normed(), (X,), backend="inductor")


def test_a_dynamic_graph_is_compiled_once_for_all_sizes() -> None:
    """The one real compilation here: sizes, non-contiguous inputs, results that repeat."""
    model = normed()
    rows = {"input": {0: torch.export.Dim("rows", min=1)}}
    fast = txgraph.optimize(model, (torch.ones(3, 4),), dynamic_shapes=rows, backend="inductor")
    assert "def call" in fast.code()
    for x in (torch.randn(1, 4), torch.randn(2, 4), torch.randn(64, 4), torch.randn(4, 7).t()):
        output = fast(x)
        oracle = normed().double()(x.double())
        assert [str(g) for g in check_gates([output], [model(x)], [oracle]) if not g.passed] == []
        assert torch.equal(fast(x), output)
    assert len(fast.report.graphs) == 1
    assert fast.report.graphs[0].backend == "inductor"
    assert fast.report.fallbacks == []


def test_plain_outputs() -> None:
    class Model(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> Any:
            return x * 2, 1.5, None, {"name": "a", "size": x.shape[0]}

    x = torch.ones(2, 4)
    fast = txgraph.optimize(Model(), (x,), backend="inductor")
    doubled, *others = fast(x)
    assert torch.equal(doubled, x * 2)
    assert others == [1.5, None, {"name": "a", "size": 2}]
    assert fast.report.fallbacks == []
