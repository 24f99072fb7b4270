"""The report: plain data for programs, text for people."""

from __future__ import annotations

import json
import logging

import pytest
import torch

import txgraph
from tests.small import BITWISE, MLP, module
from txgraph import OptimizedModel, Pass, PassContext, Pipeline, Report, Rewrite
from txgraph.ir import Graph, GraphBuilder

X = torch.linspace(-1, 1, 8).reshape(2, 4)


class Double(Pass):
    """A broken pass: doubles the result."""

    def run(self, graph: Graph, context: PassContext) -> list[Rewrite]:
        (value,) = graph.outputs
        doubled = GraphBuilder(graph, graph.output, made_by=self.name).aten.mul.Tensor(value, 2)
        graph.output.args = ((doubled,),)
        return [Rewrite.of(self.name, [value], [doubled])]


@pytest.fixture(scope="module")
def fast() -> OptimizedModel:
    optimized = txgraph.optimize(MLP(), backend="reference", passes=Pipeline((*BITWISE, Double())))
    optimized(X, scale=2.0)
    optimized(X[:1].expand(5, 4), scale=2.0)
    return optimized


def test_data(fast: OptimizedModel) -> None:
    data = fast.report.to_dict()
    assert list(data) == [
        "model", "backend", "verify", "graphs", "passes", "rewrites", "ledger", "verification", "measurements",
        "fallbacks", "notes", "seconds",
    ]  # fmt: skip
    assert (data["model"], data["backend"], data["verify"]) == ("MLP", "reference", "passes")
    assert (data["fallbacks"], data["notes"]) == ([], [])
    assert json.loads(json.dumps(data)) == data


def test_graphs(fast: OptimizedModel) -> None:
    first, second = fast.report.to_dict()["graphs"]
    assert first["inputs"] == ["x: f32[2, 4]"]
    assert second["inputs"] == ["x: f32[B, 4]"]
    assert first["backend"] == "reference"
    assert (first["nodes_before"], first["nodes_after"]) == (5, 4)
    assert len(fast.graph_before.calls()) == second["nodes_before"]
    assert len(fast.graph_after.calls()) == second["nodes_after"]
    assert set(first["seconds"]) == {"load", "capture", "verify", "passes", "lower", "total"}
    assert 0 < sum(v for k, v in first["seconds"].items() if k != "total") <= first["seconds"]["total"]


def test_passes(fast: OptimizedModel) -> None:
    passes = [p for p in fast.report.to_dict()["passes"] if p["graph"] == 1]
    assert [p["name"] for p in passes] == [*BITWISE.names, "double"]
    by_name = {p["name"]: p for p in passes}
    assert by_name["remove-identities"]["status"] == "applied"
    assert by_name["remove-identities"]["rewrites"] == 1
    assert by_name["fold-constants"]["status"] == "unchanged"
    assert by_name["double"]["status"] == "rolled back"
    assert by_name["double"]["reason"].startswith("G2 output 0: ")
    assert all(p["seconds"] >= 0 for p in passes)


def test_rewrites(fast: OptimizedModel) -> None:
    removed, broken = [r for r in fast.report.to_dict()["rewrites"] if r["graph"] == 0]
    assert (removed["rule"], removed["status"], removed["removed"], removed["made"]) == (
        "remove-identities", "applied", ["clone"], [],
    )  # fmt: skip
    assert removed["module"] == "copy"
    assert removed["location"].startswith("small.py:")
    assert (broken["rule"], broken["status"], len(broken["made"])) == ("double", "rolled back", 1)


def test_every_rewrite_is_counted() -> None:
    model = module(lambda x: ((x + 1) * 1 * 1).neg())
    data = txgraph.optimize(model, (X,), backend="reference", passes=BITWISE).report.to_dict()
    assert {p["name"]: p["rewrites"] for p in data["passes"]}["remove-identities"] == 2
    assert [r["removed"] for r in data["rewrites"]] == [["mul_1"], ["mul"]]


def test_verification(fast: OptimizedModel) -> None:
    records = [v for v in fast.report.to_dict()["verification"] if v["graph"] == 0]
    assert [(v["stage"], v["passed"]) for v in records] == [
        ("capture", True),
        ("remove-identities", True),
        ("double", False),
        ("backend", True),
    ]
    gates = {g["gate"]: g for g in records[2]["gates"]}
    assert list(gates) == ["G0", "G1", "G2", "G3"]
    assert gates["G2"]["actual"] > gates["G2"]["bound"] > 0
    assert not gates["G3"]["passed"]


def test_seconds_are_those_of_all_graphs(fast: OptimizedModel) -> None:
    data = fast.report.to_dict()
    assert data["seconds"]["total"] == sum(g["seconds"]["total"] for g in data["graphs"])


def test_text(fast: OptimizedModel) -> None:
    text = str(fast.report)
    lines = text.splitlines()
    assert lines[0] == "MLP: 2 graph(s), backend reference, verify passes"
    assert "graph 1: x: f32[B, 4]" in lines
    assert any(line.split()[:3] == ["remove-identities", "applied", "1"] and "pass" in line for line in lines)
    assert any(line.split()[:3] == ["double", "rolled", "back"] and "FAIL  G2" in line for line in lines)
    assert any("unchanged: fold-constants" in line for line in lines)
    assert "fallbacks: 0" in lines
    assert repr(fast.report) == text


def test_text_before_anything_is_compiled() -> None:
    report = txgraph.optimize(MLP(), backend="reference").report
    assert str(report).splitlines() == ["MLP: 0 graph(s), backend reference, verify passes", "fallbacks: 0"]
    assert report.to_dict()["graphs"] == []
    assert report.to_dict()["seconds"]["total"] == 0


def test_notes_and_fallbacks_are_in_the_text() -> None:
    report = Report("M", "auto", "passes")
    report.notes.append("compiled anew because [something] changed")
    assert "note: compiled anew because [something] changed" in str(report)


def test_unchecked_stages_say_so() -> None:
    optimized = txgraph.optimize(MLP(), (X,), backend="reference", passes=BITWISE, verify="off")
    assert optimized.report.to_dict()["verification"] == []
    assert "not checked" in str(optimized.report)


def test_what_happens_is_logged_not_printed(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="txgraph"):
        txgraph.optimize(MLP(), (X,), backend="reference", passes=BITWISE)
    assert "remove-identities: 2 rewrites, applied" in caplog.text
    assert capfd.readouterr().out == ""
