"""What a drawing shows of a graph."""

from __future__ import annotations

import torch

from tests.render.models import Stack, X, stages
from tests.small import graph_of
from txgraph.render.view import Arrow, module_classes, view_of


def test_constants_belong_to_their_operator() -> None:
    linear = next(o for o in view_of(graph_of(Stack(8).eval(), X)).values() if o.op == "linear")
    assert [(c.name, c.shape) for c in linear.constants] == [("embed.weight", (4, 4)), ("embed.bias", (4,))]
    assert linear.arrows == (Arrow("x", "f32[2, 4]"),)


def test_a_joint_weight_knows_its_parts() -> None:
    joint = next(o for o in view_of(stages(Stack(8), X).after).values() if o.type == "f32[2, 16]")
    assert joint.constants[0].parts == ("layers.0.gate.weight", "layers.0.up.weight")


def test_getitem_and_symbolic_sizes_are_passed_through() -> None:
    class Halves(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            left, right = x.split(2, -1)
            return left * x.shape[0] + right.exp()

    view = view_of(graph_of(Halves(), torch.ones(3, 4), dynamic_shapes={"x": {0: torch.export.Dim.AUTO}}))
    assert [o.op for o in view.values()] == ["x", "split", "mul", "exp", "add", "output"]
    mul = next(o for o in view.values() if o.op == "mul")
    assert mul.arrows == view["exp"].arrows == (Arrow("split", "f32[B, 2]"),)
    assert view["split"].type == "2 tensors"


def test_modules_have_paths_and_classes() -> None:
    graph = graph_of(Stack(8).eval(), X)
    assert ("layers", "0", "down") in {o.path for o in view_of(graph).values()}
    classes = module_classes(graph)
    assert classes["layers", "0"] == "Block"
    assert classes["layers", "0", "down"] == "Linear"
