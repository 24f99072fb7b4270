"""What TensorBoard reads: graphs whose names are paths of modules, and the figures of the report."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.proto.graph_pb2 import GraphDef

import txgraph
from tests.helpers import normal
from tests.small import MLP, module
from txgraph import OptimizedModel


def read(folder: Path) -> EventAccumulator:
    events = EventAccumulator(str(folder))
    events.Reload()
    return events


@pytest.fixture(scope="module")
def fast() -> OptimizedModel:
    layers = torch.nn.ModuleList([MLP(), MLP()]).eval()
    model = module(lambda x: layers[1](layers[0](x)), layers=layers)
    optimized = txgraph.optimize(model, args=(normal(2, 4),), backend="reference", profile=True)
    optimized(normal(5, 4))
    return optimized


@pytest.fixture(scope="module")
def folder(fast: OptimizedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("events")
    assert fast.to_tensorboard(folder) == folder
    return folder


@pytest.mark.parametrize("name", ["before", "after"])
def test_graphs(fast: OptimizedModel, folder: Path, name: str) -> None:
    graph: GraphDef = read(folder / "graph_1" / name).Graph()
    shown = GraphDef()
    shown.ParseFromString(graph.SerializeToString())
    nodes = {node.name: node for node in shown.node}
    ours = fast.graph_before if name == "before" else fast.graph_after
    assert len(nodes) == len(shown.node) == len(ours)
    assert {"layers.0/up/weight", "layers.1/down/bias", "outputs"} <= nodes.keys()
    assert all(source in nodes for node in shown.node for source in node.input)
    (up,) = [node for node in shown.node if node.name.startswith("layers.1/up/") and node.op == "linear"]
    assert "layers.1/up/weight" in up.input
    (shape,) = up.attr["_output_shapes"].list.shape
    assert [size.size for size in shape.dim] == [-1, 8]
    assert b"small.py:" in up.attr["source"].s
    (x,) = [node for node in shown.node if node.op == "placeholder"]
    assert x.name.startswith("inputs/")


def test_figures(fast: OptimizedModel, folder: Path) -> None:
    events = read(folder / "report")
    tags = set(events.Tags()["scalars"])
    first, second = fast.report.graphs
    after = [(event.step, event.value) for event in events.Scalars("operators/after")]
    assert after == [(0, first.nodes_after), (1, second.nodes_after)]
    assert {f"seconds/{stage}" for stage in first.seconds} <= tags
    assert events.Scalars("error G3/backend")[1].value == pytest.approx(
        max(gate.actual for gate in second.verification[-1].gates if gate.gate == "G3"), rel=1e-6
    )  # a float32 there
    assert first.profile is not None
    (call,) = events.Scalars("profile/call")
    assert call.value == pytest.approx(first.profile.seconds, rel=1e-6)
    assert {"profile by kind/interpreted", "profile by module/layers.0"} <= tags


def test_without_tensorboard(fast: OptimizedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    for name in [each for each in sys.modules if each.startswith("torch.utils.tensorboard")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ImportError, match=r"need the package tensorboard .*pip install 'txgraph\[tensorboard\]'"):
        fast.to_tensorboard(tmp_path)
    assert not list(tmp_path.iterdir())


def test_nothing_is_compiled(tmp_path: Path) -> None:
    with pytest.raises(txgraph.TxgraphError, match="nothing is compiled yet"):
        txgraph.optimize(MLP()).to_tensorboard(tmp_path)
