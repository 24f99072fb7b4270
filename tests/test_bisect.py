"""What is wrong is named: a rewrite, or the operators that a backend compiles wrongly, with a file that shows it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.fx import Node
from typer.testing import CliRunner

import txgraph
from tests.small import Encoder, graph_of
from tests.zoo import tokens
from txgraph import NodePass, Pipeline
from txgraph.backends.reference import ReferenceBackend
from txgraph.bisect import smallest_part
from txgraph.cli.app import app
from txgraph.ir import Graph, GraphBuilder, interpret, op_name
from txgraph.reproduction import reproduction

INPUTS = tokens(2, 6)


class WrongNorms(NodePass):
    """The eps of the second norm is another."""

    def rewrite(self, node: Node, g: GraphBuilder) -> Node | None:
        if op_name(node) != "layer_norm":
            return None
        x, size, w, b, *_ = node.args
        return g.aten.layer_norm(x, size, w, b, 1e-3 if "norm2" in str(w) else 1e-12)


def test_nothing_is_wrong() -> None:
    assert txgraph.bisect(Encoder(), kwargs=INPUTS, backend="reference") == []


def test_a_wrong_rewrite() -> None:
    pipeline = Pipeline((WrongNorms(),))
    (culprit,) = txgraph.bisect(Encoder(), kwargs=INPUTS, backend="reference", passes=pipeline)
    assert (culprit.stage, culprit.module) == ("wrong-norms", "norm2")
    assert culprit.location.startswith("small.py:")
    assert culprit.reason.startswith("by itself: G2")
    assert str(culprit).startswith("wrong-norms: the rewrite of %layer_norm_1 in norm2 (small.py:")


def with_tanh(graph: Graph) -> Callable[[Sequence[Any]], Sequence[Any]]:
    """A compiler that takes GELU's other form, but only behind a linear."""
    wrong = graph.copy()
    for node in wrong.calls():
        if op_name(node) == "gelu" and op_name(node.args[0]) == "linear":
            node.update_kwarg("approximate", "tanh")
    return lambda tensors: interpret(wrong, tensors)


def that_raises(graph: Graph) -> Callable[[Sequence[Any]], Sequence[Any]]:
    if graph.count().get("layer_norm"):
        raise AssertionError("no such norm\nat all")
    return lambda tensors: interpret(graph, tensors)


def test_the_smallest_part_that_is_compiled_wrongly() -> None:
    graph = graph_of(Encoder(), **INPUTS)
    part = smallest_part(graph, list(INPUTS.values()), with_tanh)
    assert part is not None
    assert part.graph.count() == {"gelu": 1, "linear": 1}
    assert part.reason.startswith("G2 output 0")
    raised = smallest_part(graph, list(INPUTS.values()), that_raises)
    assert raised is not None
    assert raised.graph.count() == {"layer_norm": 1}
    assert raised.reason == "AssertionError: no such norm"
    assert smallest_part(graph, list(INPUTS.values()), lambda g: lambda tensors: interpret(g, tensors)) is None


def test_a_wrong_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong(ReferenceBackend):
        def lower(self, graph: Graph, target: txgraph.Target, options: txgraph.BackendOptions) -> Any:
            return txgraph.backends.base.Compiled(with_tanh(graph))

    monkeypatch.setattr(sys.modules["txgraph.bisect"], "choose_backend", lambda name: Wrong())
    (culprit,) = txgraph.bisect(Encoder(), kwargs=INPUTS, passes=Pipeline(()))
    assert culprit.stage == "backend reference"
    assert "aten.gelu" in culprit.what
    assert "G2 output 0" in culprit.reason
    assert "class Part(torch.nn.Module)" in culprit.reproduction


def test_a_reproduction_runs(tmp_path: Path) -> None:
    """Right by a right backend; a large constant is made anew."""
    graph = graph_of(Encoder(), **INPUTS)
    part = smallest_part(graph, list(INPUTS.values()), with_tanh)
    assert part is not None
    path = tmp_path / "bisected.py"
    path.write_text(reproduction(part.graph, part.inputs, part.reason, "reference"), encoding="utf-8")
    ran = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (0, "right: compiled and eager agree\n"), ran.stderr
    source = path.read_text().replace("passes=txgraph.Pipeline(())", "passes=None")
    path.write_text(
        source.replace("result = compiled(*inputs)", "result = [each * 1.001 for each in compiled(*inputs)]"),
        encoding="utf-8",
    )
    ran = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert ran.stdout.startswith("G")


def test_large_values_are_made_anew() -> None:
    graph = graph_of(torch.nn.Linear(600, 600), torch.ones(2, 600))
    text = reproduction(graph, (torch.ones(2, 600),), "G2", "inductor")
    assert "'constant_0': torch.randn((600, 600)).to(torch.float32)," in text
    assert len(text) < 10_000
    compile(text, "bisected.py", "exec")


def test_slow_rewrites() -> None:
    class Slower(txgraph.RewritePass):
        def pattern(self, p: Any) -> Any:
            return p.aten.gelu(p.any("x"), approximate=p.any())

        def gain(self, match: txgraph.Match, made: Any) -> float:
            return 1.0

        def rewrite(self, match: txgraph.Match, g: GraphBuilder) -> Node:
            x = match["x"]
            for _ in range(400):
                x = g.aten.sin(x)
            return x

    model, x = torch.nn.GELU(), torch.randn(64, 512)
    (culprit,) = txgraph.bisect(model, (x,), backend="reference", passes=Pipeline((Slower(),)), slow=True)
    assert culprit.stage == "slower"
    assert culprit.what == "the rewrite of %gelu (x1)"
    assert txgraph.bisect(model, (x,), backend="reference", slow=True) == []


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["bisect", "tests.cli.factories:encoder", "--backend", "reference"]
    result = CliRunner().invoke(app, arguments)
    assert (result.exit_code, result.stdout) == (0, "nothing is wrong\n")
    culprit = txgraph.Culprit("backend inductor", "%gelu", "up", "small.py:1", "G2", "print('shown')\n")
    monkeypatch.setattr(sys.modules["txgraph.cli.bisect"], "find_culprits", lambda *args, **options: [culprit])
    path = tmp_path / "shown.py"
    result = CliRunner().invoke(app, [*arguments, "-o", str(path)])
    assert result.exit_code == 1
    assert result.stdout == "backend inductor: %gelu in up (small.py:1): G2\n"
    assert path.read_text() == "print('shown')\n"
    data = json.loads(CliRunner().invoke(app, [*arguments, "--json", "-o", str(path)]).stdout)
    assert data[0]["stage"] == "backend inductor"
