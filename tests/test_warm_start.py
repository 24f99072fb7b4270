"""A second process takes what the first compiled, if it is for the same model and right for the call."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import txgraph
from tests.helpers import normal
from txgraph import warm_start
from txgraph.backends.inductor import InductorBackend
from txgraph.errors import BackendFailed

X = normal(3, 8)


class Model(nn.Module):
    """Linears, one with a scale that is folded into its weight, and a buffer that each call writes to."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.query, self.key, self.last = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.register_buffer("calls", torch.zeros(()))
        self.eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls.add_(1)
        return self.last(torch.relu(self.query(x) * 0.3) * self.key(x).clone())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def cache_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TXGRAPH_CACHE", "1")
    monkeypatch.setenv("TXGRAPH_CACHE_DIR", str(folder))


@pytest.fixture(scope="module", autouse=True)
def first(folder: Path) -> Iterator[txgraph.OptimizedModel]:
    """Compiled by the first process, so to speak: everything after it starts warm."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("TXGRAPH_CACHE", "1")
        patched.setenv("TXGRAPH_CACHE_DIR", str(folder))
        yield optimized(Model())


def optimized(model: nn.Module, x: torch.Tensor = X, **settings: Any) -> txgraph.OptimizedModel:
    hardware = {"hardware": txgraph.cost.HARDWARE["cpu-avx2"]}
    return txgraph.optimize(model, args=(x,), backend="inductor", options=hardware, **settings)


def is_warm(fast: txgraph.OptimizedModel) -> bool:
    return bool(fast.report.graphs[-1].cached)


def test_the_second_is_warm(first: txgraph.OptimizedModel) -> None:
    """It answers, reports, draws and explains as the first does."""
    model, eager = Model(), Model()
    second = optimized(model)
    assert is_warm(second)
    assert not is_warm(first)
    for calls in (1, 2):
        x = normal(3, 8) + calls
        torch.testing.assert_close(second(x), eager(x))
        assert model.calls == eager.calls == calls
    assert (str(second.graph_before), str(second.graph_after)) == (str(first.graph_before), str(first.graph_after))
    assert second.code() == first.code()
    assert second.kernels() == first.kernels()
    assert {name for kernel in second.kernels() for name in kernel.nodes} <= {n.name for n in second.graph_after.nodes}
    assert str(second.explain("fuse-shared-input-linears")) == str(first.explain("fuse-shared-input-linears"))
    ours, theirs = second.report.graphs[0], first.report.graphs[0]
    assert (ours.passes, ours.choices, ours.nodes_after) == (theirs.passes, theirs.choices, theirs.nodes_after)
    assert [record.stage for record in ours.verification] == [*(r.stage for r in theirs.verification), "cache"]
    assert ours.verification[-1].passed
    assert set(ours.seconds) == {"load", "verify", "total"}
    assert "taken from the cache" in str(second.report)
    assert second.report.to_dict()["graphs"][0]["cached"]


def test_weights_are_those_of_the_second_model() -> None:
    model, eager = Model(), Model()
    with torch.no_grad():
        model.last.weight.mul_(2)
        eager.last.weight.mul_(2)
    fast = optimized(model)
    assert is_warm(fast)
    torch.testing.assert_close(fast(X), eager(X))
    with torch.no_grad():
        model.last.bias.add_(1)
        eager.last.bias.add_(1)
    torch.testing.assert_close(fast(X), eager(X))


def test_a_weight_that_is_in_the_graph_has_another_value() -> None:
    """The graph holds a scaled copy of query's weight."""
    model, eager = Model(), Model()
    with torch.no_grad():
        model.query.weight.mul_(2)
        eager.query.weight.mul_(2)
    fast = optimized(model)
    assert not is_warm(fast)
    torch.testing.assert_close(fast(X), eager(X))


def test_a_change_after_a_warm_start_is_noticed() -> None:
    model, eager = Model(), Model()
    fast = optimized(model)
    assert is_warm(fast)
    fast(X), eager(X)
    with torch.no_grad():
        model.query.weight.mul_(2)
        eager.query.weight.mul_(2)
    torch.testing.assert_close(fast(X), eager(X))
    assert any("query.weight was changed in place" in note for note in fast.report.notes)


def test_other_shapes_compile() -> None:
    assert not is_warm(optimized(Model(), normal(4, 8)))
    lazy = txgraph.optimize(Model(), options={"hardware": txgraph.cost.HARDWARE["cpu-avx2"]}, backend="inductor")
    lazy(X)
    assert is_warm(lazy)


def test_it_can_be_turned_off(monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"hardware": txgraph.cost.HARDWARE["cpu-avx2"], "cache": False}
    fast = txgraph.optimize(Model(), args=(X,), backend="inductor", options=options)
    assert not is_warm(fast)
    monkeypatch.setenv("TXGRAPH_CACHE", "0")
    assert not is_warm(optimized(Model()))


def test_a_kept_result_that_is_wrong_is_compiled_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    def restore(self: InductorBackend, kept: Any) -> Any:
        compiled = original(self, kept)
        object.__setattr__(compiled, "run", lambda tensors: [each * 1.01 for each in run(tensors)])
        return compiled

    original = InductorBackend.restore
    run = optimized(Model())._latest().compiled.run
    monkeypatch.setattr(InductorBackend, "restore", restore)
    fast = optimized(Model())
    assert not is_warm(fast)
    assert not fast.report.fallbacks
    assert any("compiled anew: what was kept in" in note and "broke a gate" in note for note in fast.report.notes)
    torch.testing.assert_close(fast(X), Model()(X))


def test_a_backend_that_cannot_load_it(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def restore(self: InductorBackend, kept: Any) -> Any:
        raise BackendFailed("Inductor cannot load a kept graph: no")

    monkeypatch.setattr(InductorBackend, "restore", restore)
    with caplog.at_level(logging.WARNING, "txgraph"):
        assert not is_warm(optimized(Model()))
    assert "compiled anew: Inductor cannot load a kept graph: no" in caplog.text


def test_models_and_folders_that_cannot_be_kept(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    model = Model()
    model.act = lambda x: x
    with caplog.at_level(logging.INFO, "txgraph"):
        assert not is_warm(optimized(model))
    assert "Model is not kept for other processes: " in caplog.text
    assert "lambda" in caplog.text
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TXGRAPH_CACHE_DIR", str(tmp_path / "file"))
    assert not is_warm(optimized(Model()))
    assert "Model cannot be kept for other processes: " in caplog.text


def test_the_reference_backend_keeps_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TXGRAPH_CACHE_DIR", str(tmp_path))
    txgraph.optimize(Model(), args=(X,), backend="reference")
    assert not list(tmp_path.iterdir())


def test_unverified(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is kept or taken that the caller did not ask for: another level is another fingerprint."""
    fast = optimized(Model(), verify="off")
    assert not is_warm(fast)
    again = optimized(Model(), verify="off")
    assert is_warm(again)
    assert again.report.graphs[0].verification == []
    monkeypatch.setattr(warm_start, "fingerprint", lambda *_: pytest.fail("asked"))
    options = {"cache": False}
    txgraph.optimize(Model(), args=(X,), backend="inductor", options=options, verify="off")


SCRIPT = """
    import json, sys, torch, transformers, txgraph
    torch.manual_seed(0)
    config = transformers.BertConfig(hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128,
                                     vocab_size=100)
    model = transformers.BertModel(config).eval()
    fast = txgraph.optimize(model, backend="inductor")
    for rows in (2, 3):
        inputs = {"input_ids": torch.arange(rows * 7).reshape(rows, 7), "attention_mask": torch.ones(rows, 7).long()}
        inputs["attention_mask"][0, 4:] = 0
        torch.testing.assert_close(fast(**inputs)[0], model(**inputs)[0], rtol=1e-4, atol=1e-5)
    print(json.dumps([bool(graph.cached) for graph in fast.report.graphs]))
"""


def test_real_processes(folder: Path) -> None:
    """Of BERT: a graph for one shape, then one with dynamic sizes."""
    environment = {**os.environ, "TXGRAPH_CACHE": "1", "TXGRAPH_CACHE_DIR": str(folder), "OMP_NUM_THREADS": "1"}

    def run() -> list[bool]:
        command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(SCRIPT)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == 0, done.stderr
        cached: list[bool] = json.loads(done.stdout.splitlines()[-1])
        return cached

    assert run() == [False, False]
    assert run() == [True, True]
