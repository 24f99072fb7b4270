"""``backend="auto"``: each layer goes to the backend that is fastest on it, and none that is wrong is taken."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import txgraph
from txgraph.backends import Backend, Compiled, choose, choose_backend
from txgraph.backends.auto import AutoBackend
from txgraph.backends.inductor import InductorBackend
from txgraph.backends.reference import ReferenceBackend
from txgraph.errors import BackendFailed
from txgraph.ir import Graph, interpret
from txgraph.options import BackendOptions, Target

SLOW = 0.004  # seconds: far more than a small graph takes, or the noise of a busy machine
X = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))


def fine(outputs: Sequence[Any], graph: Graph) -> Sequence[Any]:
    return outputs


def slow(outputs: Sequence[Any], graph: Graph) -> Sequence[Any]:
    time.sleep(SLOW)
    return outputs


def slow_where_there_are(operator: str) -> Callable[[Sequence[Any], Graph], Sequence[Any]]:
    def after(outputs: Sequence[Any], graph: Graph) -> Sequence[Any]:
        time.sleep(SLOW * sum(operator in str(node.target) for node in graph.calls()))
        return outputs

    return after


def wrong(outputs: Sequence[Any], graph: Graph) -> Sequence[Any]:
    return [value * 1.01 for value in outputs]


@dataclass(frozen=True)
class Seeded(ReferenceBackend):
    """The interpreter, and something done after it."""

    after: Callable[[Sequence[Any], Graph], Sequence[Any]] = fine

    def lower(self, graph: Graph, target: Target, options: BackendOptions) -> Compiled:
        return self.restore(graph.copy())

    def restore(self, kept: Any) -> Compiled:
        return Compiled(lambda tensors: self.after(interpret(kept, tensors), kept), f"{self.name}\n", keep=lambda: kept)


@dataclass(frozen=True)
class Failing(ReferenceBackend):
    def lower(self, graph: Graph, target: Target, options: BackendOptions) -> Compiled:
        raise BackendFailed("its compiler fell over")


class Layers(nn.Module):
    """Layers with sigmoids, and a head with a tanh."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))
        self.head = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = x + torch.sigmoid(layer(x))
        return torch.tanh(self.head(x)).relu()


def optimized(
    monkeypatch: pytest.MonkeyPatch, *backends: Backend, **options: Any
) -> tuple[nn.Module, txgraph.OptimizedModel, dict[str, str]]:
    torch.manual_seed(0)
    monkeypatch.setattr(choose, "_auto", lambda: AutoBackend(backends))
    model = Layers().eval()
    options = {"layers": True, "cache": False} | options
    fast = txgraph.optimize(model, (X,), backend="auto", options=options)
    return model, fast, fast.report.graphs[0].choices


def test_each_layer_goes_to_the_faster_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    first = Seeded("first", after=slow_where_there_are("sigmoid"))
    other = Seeded("other", after=slow_where_there_are("tanh"))
    model, fast, choices = optimized(monkeypatch, first, other)
    assert choices["backend"].startswith("by layers (")
    assert "ms first" in choices["backend"]
    assert "ms other" in choices["backend"]
    assert choices["layers (x3)"].startswith("other (")
    assert [choice.split()[0] for what, choice in choices.items() if what.startswith("piece")] == ["first"]
    assert "layers (x3): other (" in " ".join(str(fast.report).split())
    assert [v.stage for v in fast.report.graphs[0].verification][-1] == "backend"
    torch.testing.assert_close(fast(X), model(X))  # its defaults for float32
    y = X.flip(0)
    torch.testing.assert_close(fast(y), model(y))


def test_a_faster_whole_graph_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, choices = optimized(monkeypatch, Seeded("first", after=slow), Seeded("other"))
    assert choices["backend"].startswith("other (")


def test_the_first_stays_where_the_other_is_slower(monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, choices = optimized(monkeypatch, Seeded("first"), Seeded("other", after=slow))
    assert choices["backend"].startswith("first (")


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (Seeded("other", after=wrong), "left out, it broke a gate: G"),
        (Failing("other"), "left out: its compiler fell over"),
    ],
)
def test_what_is_wrong_or_fails_is_left_out(monkeypatch: pytest.MonkeyPatch, other: Backend, reason: str) -> None:
    model, fast, choices = optimized(monkeypatch, Seeded("first", after=slow), other)
    assert choices["backend"] == "first: no other was measured"
    for what in ("whole", "layers (x3)"):
        assert choices[f"other, {what}"].startswith(reason)
    torch.testing.assert_close(fast(X), model(X))
    assert not fast.report.fallbacks


def test_seconds_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, choices = optimized(monkeypatch, Seeded("first", after=slow), Seeded("other"), choose_seconds=0.0)
    assert choices["backend"] == "first: no other was measured"
    assert choices["other, whole"] == "left out: 0 s were over (options choose_seconds)"


def test_dynamic_sizes_stay_with_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    _, fast, _ = optimized(monkeypatch, Seeded("first", after=slow), Seeded("other"))
    fast(torch.randn(3, 7, 8))
    assert fast.report.graphs[1].choices["backend"] == "first: sizes are dynamic, nothing was measured"


def test_what_was_composed_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TXGRAPH_CACHE", "1")
    monkeypatch.setenv("TXGRAPH_CACHE_DIR", str(tmp_path))
    first = Seeded("first", after=slow_where_there_are("sigmoid"))
    other = Seeded("other", after=slow_where_there_are("tanh"))
    _, made, choices = optimized(monkeypatch, first, other, cache=True)
    assert choices["backend"].startswith("by layers (")
    model, again, kept = optimized(monkeypatch, first, other, cache=True)
    assert again.report.graphs[0].cached
    assert kept == choices
    assert torch.equal(again(X), made(X))
    torch.testing.assert_close(again(X), model(X))


def test_without_tvm_it_is_inductor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert isinstance(choose_backend("auto"), InductorBackend)


def test_with_tvm_it_measures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("txgraph.backends.tvm.lower.is_installed", lambda: True)
    backend = choose_backend("auto")
    assert isinstance(backend, AutoBackend)
    assert [each.name for each in backend.backends] == ["inductor", "tvm"]


def test_a_device_is_left_to_the_first() -> None:
    backend = AutoBackend((Seeded("first"), Failing("other")))
    graph = txgraph.optimize(Layers().eval(), (X,), backend="reference").graph_after
    assert not backend.lower(graph, Target("cuda"), BackendOptions()).choices
