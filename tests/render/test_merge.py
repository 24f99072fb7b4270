"""Both graphs as one."""

from __future__ import annotations

import torch
from torch import nn

from tests.render.models import Stack, X, stages
from tests.small import Copy
from txgraph import Pipeline
from txgraph.passes.canonicalize.remove_identities import RemoveIdentities
from txgraph.passes.fold.fold_constants import FoldConstants
from txgraph.render import Picture, Stages
from txgraph.render.diff import Status
from txgraph.render.drawing import draw
from txgraph.render.merge import merge, unchanged_parts
from txgraph.render.panel import Box, Panel


def merged(run: Stages) -> Panel:
    return merge(draw(run))


def names(box: Box) -> list[str]:
    return [op.op for op in box.ops]


def of_status(panel: Panel, status: Status) -> list[Box]:
    return [box for box in panel.boxes if box.fate.status is status]


def test_a_fused_operator_names_what_it_was_made_of() -> None:
    panel = merged(stages(Stack(8), X))
    fused = {names(box)[0]: [op.op for op in box.replaced] for box in of_status(panel, Status.FUSED)}
    assert fused == {"linear": ["linear", "linear"], "txgraph::linear_activation": ["linear", "gelu"]}
    assert panel.was == len(stages(Stack(8), X).before.calls())


def test_a_removed_operator_stands_where_it_was() -> None:
    class Copied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.copy = Copy()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.copy(x.exp()).tanh()

    panel = merged(stages(Copied(), X, passes=Pipeline((RemoveIdentities(),))))
    (gone,) = of_status(panel, Status.REMOVED)
    assert names(gone) == ["clone"]
    ids = {names(box)[0]: box.id for box in panel.boxes}
    arrows = {(link.source, link.target): link.removed for link in panel.links}
    assert arrows[ids["exp"], gone.id] is arrows[gone.id, ids["tanh"]] is True
    assert (ids["exp"], ids["tanh"]) not in arrows  # the removed one stands between them


def test_removed_operators_that_feed_each_other_are_one_box() -> None:
    class Folded(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * torch.arange(4).neg().abs()

    panel = merged(stages(Folded(), X, passes=Pipeline((FoldConstants(),))))
    (gone,) = of_status(panel, Status.REMOVED)
    assert sorted(names(gone)) == ["abs", "arange", "neg"]
    (mul,) = [box for box in panel.boxes if names(box) == ["mul"]]
    assert [(link.source, link.removed) for link in panel.links if link.target == mul.id and link.removed] == [
        (gone.id, True)
    ]


def test_unchanged_modules_and_stretches_are_one_box() -> None:
    class Deep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.plain = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
            self.stack = Stack(8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.stack(self.plain(x).exp().sin())

    panel = unchanged_parts(merged(stages(Deep(), X)))
    groups = [names(box) for box in panel.boxes if box.inside and box.fate.status is Status.UNCHANGED]
    assert ["linear", "tanh", "linear"] in groups
    assert ["exp", "sin"] in groups
    assert all(box.fate.status is Status.UNCHANGED for box in panel.boxes if ".plain" in ".".join(box.path))


def test_equal_graphs_are_one_box_between_input_and_output() -> None:
    run = stages(Stack(8), X, passes=Pipeline(()))
    drawing = draw(run)
    (panel,) = Picture().panels(drawing)
    assert drawing.changes == ()
    assert [box.ops[0].kind if not box.inside else "group" for box in panel.boxes] == ["placeholder", "group", "output"]


def test_nothing_is_lost() -> None:
    """Every operator of the graph after is drawn, and every one before is there, struck out or gone."""
    run = stages(Stack(8, 8, 6), X)
    drawing = draw(run, collapse=False)
    for panel in (merge(drawing), unchanged_parts(merge(drawing))):
        drawn = {op.name for box in panel.boxes for op in box.ops if box.fate.status is not Status.REMOVED}
        assert drawn == {op.name for box in drawing.after.boxes for op in box.ops}
        was = [op.name for box in panel.boxes for op in box.replaced]
        was += [op.name for box in of_status(panel, Status.REMOVED) for op in box.ops]
        changed = [op.name for box in drawing.before.boxes for op in box.ops if box.fate.status is not Status.UNCHANGED]
        assert sorted(was) == sorted(changed)
