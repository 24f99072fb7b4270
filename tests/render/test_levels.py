"""Modules and kernels as boxes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.render.models import Stack, X, stages
from txgraph.ir import Kernel
from txgraph.render import Picture, Stages
from txgraph.render.panel import Box, Panel


def operators(panel: Panel) -> list[Box]:
    return [box for box in panel.boxes if box.is_operator]


def panel(run: Stages, picture: Picture) -> Panel:
    (shown,) = picture.panels(picture.drawing(run), run.kernels)
    return shown


def test_a_box_for_each_module() -> None:
    shown = panel(stages(Stack(8, 8, 8), X), Picture("before", level="module"))
    titles = {(".".join(box.path), box.title) for box in operators(shown)}
    assert {
        ("embed", "Linear"),
        ("layers.0.down", "Linear"),
        ("layers.0.copy", "Copy"),
        ("layers.0", "Block"),
    } <= titles
    assert all(box.inside for box in operators(shown) if box.title)


def test_modules_no_deeper_than_asked() -> None:
    run = stages(Stack(8, 8, 8), X)
    shown = panel(run, Picture("after", depth=1))
    layers = next(box for box in operators(shown) if box.path == ("layers",))
    first = len([n for n in run.after.calls() if n.name in {op.name for op in layers.ops}])
    assert layers.operators() == 3 * len(layers.ops) == 3 * first
    assert [box.ops[0].op for box in operators(shown) if not box.inside] == ["tanh"]
    deeper = panel(run, Picture("after", depth=2))
    assert {box.path for box in operators(deeper) if box.inside} == {("layers", "0")}


def test_a_diff_of_modules_says_what_is_gone() -> None:
    (block,) = [b for b in operators(panel(stages(Stack(8), X), Picture(depth=2))) if b.path[:1] == ("layers",)]
    assert "clone" in [op.op for op in block.replaced]
    assert "clone" not in [op.op for op in block.ops]


def test_a_box_for_each_kernel() -> None:
    run = stages(Stack(8), X)
    first, second, *rest = [node.name for node in run.after.calls()]
    launches = [
        Kernel("cpp_fused_0", (first, second), "generated"),
        Kernel("cpp_fused_1", tuple(rest[-2:]), "generated"),
    ]
    shown = panel(replace(run, kernels=launches), Picture(level="kernel"))
    named = {box.title: [op.name for op in box.ops] for box in shown.boxes if box.title}
    assert named["cpp_fused_1"] == rest[-2:]
    assert first in named["cpp_fused_0"]
    assert shown.side == "after"


def test_no_kernels_before_compilation() -> None:
    with pytest.raises(ValueError, match="no kernels are known: a graph has them after it was compiled"):
        panel(stages(Stack(8), X), Picture(level="kernel"))


def test_without_folding_every_layer_is_drawn() -> None:
    run = stages(Stack(8, 8, 8), X)
    shown = panel(run, Picture("before", collapse=False))
    assert shown.repeats == {}
    assert sum(len(box.ops) for box in operators(shown)) == len(run.before.calls())
