"""One module alone: its operators, and what comes into it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.render.models import Stack, X, stages
from txgraph.render.diff import Status
from txgraph.render.drawing import Drawing, draw
from txgraph.render.panel import Panel


def focused(module: str, model: nn.Module | None = None) -> Drawing:
    run = stages(model or Stack(8, 8, 16), X)
    return draw(run, module)


def operators(panel: Panel) -> list[str]:
    return sorted(op.op for box in panel.boxes for op in box.ops if op.kind == "call_function")


def inputs(panel: Panel) -> list[str]:
    return [op.op for box in panel.boxes for op in box.ops if op.kind == "placeholder"]


def test_one_layer() -> None:
    drawing = focused("layers.1")
    assert operators(drawing.before) == ["add", "clone", "gelu", "linear", "linear", "linear", "linear", "mul"]
    assert inputs(drawing.before) == ["add"]  # the layer before ends with it
    assert drawing.before.operators == 8
    assert drawing.before.repeats == {}
    assert {box.ops[0].path[:2] for box in drawing.after.boxes if box.ops[0].path} == {("layers", "1")}
    assert {change.passes for change in drawing.changes} == {
        "join-linears",
        "fuse-linear-activation",
        "remove-identities",
    }
    assert {change.count for change in drawing.changes} == {1}


def test_all_layers_are_folded_as_ever() -> None:
    drawing = focused("layers")
    assert [repeat.text for repeat in drawing.before.repeats.values()] == ["0..1"]
    assert inputs(drawing.before) == ["linear"]  # the embedding


def test_what_comes_in_is_an_input_with_its_type() -> None:
    panel = focused("layers.0").before
    (source,) = [box for box in panel.boxes if box.ops[0].kind == "placeholder"]
    assert source.ops[0].type == "f32[2, 4]"
    assert source.fate.status is Status.UNCHANGED
    assert [link.source for link in panel.links if link.source == source.id] == [source.id] * 3  # gate, up, residual


def test_one_operator() -> None:
    drawing = focused("embed")
    assert operators(drawing.before) == operators(drawing.after) == ["linear"]
    assert drawing.changes == ()


def test_calls_of_one_module_are_one_module() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Sequential(nn.Linear(4, 4), nn.Tanh())

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(self.layer(x) + 1)

    assert operators(focused("layer", Twice()).before).count("linear") >= 1
    assert "add" not in operators(focused("layer", Twice()).before)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("layer.1", r"no operator belongs to a module 'layer.1'; did you mean 'layers.1'"),
        ("layers.1.gates", r"did you mean 'layers.1.gate'"),
        ("qqq", r"no operator belongs to a module 'qqq'; there are embed, layers"),
        ("layers.12", r"did you mean"),
    ],
)
def test_a_module_that_is_not_there(module: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        focused(module)
