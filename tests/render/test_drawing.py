"""Boxes, arrows and frames."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from tests.render.models import Block, Stack, X, stages
from txgraph.render.diff import Status
from txgraph.render.drawing import draw
from txgraph.render.panel import MAX_ARROWS, Box, Frame, Panel
from txgraph.render.summary import Change
from txgraph.rewrite import NearMiss


def box(panel: Panel, operator: str, module: str = "") -> Box:
    """The only box of that operator (in that module)."""
    found = [b for b in panel.boxes if b.ops[0].op == operator and ".".join(b.ops[0].path).startswith(module)]
    assert len(found) == 1, [b.name for b in found]
    return found[0]


def frames(cluster: Frame) -> set[str]:
    return {".".join(cluster.path)}.union(*(frames(child) for child in cluster.children.values()))


def test_fused_boxes_share_their_number_and_say_so() -> None:
    drawing = draw(stages(Stack(8, 8, 8), X))
    gelu, fused = box(drawing.before, "gelu"), box(drawing.after, "txgraph::linear_activation")
    assert gelu.fate.status is fused.fate.status is Status.FUSED
    assert gelu.note == fused.note == "fused by fuse-linear-activation"
    assert gelu.number == fused.number is not None
    assert box(drawing.after, "split_with_sizes").number not in (None, fused.number)


def test_what_was_done_in_some_of_the_folded_layers_is_counted() -> None:
    run = stages(Stack(8, 8, 8), X)
    last = [n for n in run.after.calls() if n.target is torch.ops.aten.mul.Tensor][-1]
    last.meta["txgraph_passes"] = ("lower-precision",)
    assert box(draw(run).after, "mul").fate.status is Status.UNCHANGED  # most of them
    for node in run.after.calls():
        if node.target is torch.ops.aten.mul.Tensor:
            node.meta["txgraph_passes"] = () if node is last else ("lower-precision",)
    assert box(draw(run).after, "mul").note == "changed by lower-precision (2 of 3)"


def test_a_folded_layer_has_no_arrows_to_itself() -> None:
    panel = draw(stages(Stack(8, 8, 8), X)).before
    first = box(panel, "linear", "embed").id
    last = box(panel, "tanh").id
    residual = box(panel, "add").id
    into = {link.source for link in panel.links if link.target == residual}
    assert into == {first, box(panel, "clone").id}  # the first layer's input; not the layer's own result
    assert [link.source for link in panel.links if link.target == last] == [residual]
    assert {link.type for link in panel.links if link.source == first} == {"f32[2, 4]"}


def test_views_that_feed_each_other_are_one_box() -> None:
    class Heads(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            heads = x.view(2, 2, 2).transpose(0, 1).unsqueeze(0)
            return heads.exp() + heads.tanh().permute(0, 2, 1, 3)

    panel = draw(stages(Heads(), X)).before
    assert [[o.op for o in b.ops] for b in panel.boxes if b.ops[0].is_view] == [
        ["reshape", "transpose", "unsqueeze"],
        ["permute"],
    ]


def test_modules_with_one_box_have_no_frame() -> None:
    drawing = draw(stages(nn.Sequential(Block(), nn.Tanh(), Block(6)), X))
    assert frames(drawing.before.tree()) == {"", "0", "2"}


def test_a_frame_that_holds_only_a_frame_is_joined_with_it() -> None:
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.ModuleDict({"body": nn.ModuleList([Block(8), Block(6)])})

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for block in self.encoder["body"]:
                x = block(x)
            return x

    assert frames(draw(stages(Outer(), X)).before.tree()) == {"", "encoder.body", "encoder.body.0", "encoder.body.1"}


def test_values_with_many_users_are_marked() -> None:
    class Wide(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = x.exp()
            for at in range(MAX_ARROWS + 1):
                x = x + y * at
            return x

    panel = draw(stages(Wide(), X)).before
    assert panel.wide() == {box(panel, "exp").id}


def test_the_summary_says_what_and_where() -> None:
    changes = draw(stages(Stack(8, 8, 8), X)).changes
    assert changes == (
        Change(
            Status.FUSED,
            "fused",
            1,
            3,
            "join-linears",
            "2 linear → linear, split_with_sizes",
            "layers.0..2",
        ),
        Change(
            Status.FUSED,
            "fused",
            2,
            3,
            "fuse-linear-activation",
            "linear, gelu → txgraph::linear_activation",
            "layers.0..2",
        ),
        Change(Status.REMOVED, "removed", None, 3, "remove-identities", "3 clone"),
    )


def test_what_was_not_fused_is_listed_by_rule_and_reason() -> None:
    """With the module that the places have in common, and only of the module in focus."""
    why = "the softmax is not over the keys"
    places = [("layers.0.out", why), ("layers.1.out", why), ("embed", "the bias is used elsewhere")]
    misses = [NearMiss("fuse-attention", "softmax", reason, "%softmax", module) for module, reason in places]
    run = replace(stages(Stack(8, 8), X), unfused=lambda: misses)
    found = [change for change in draw(run).changes if change.verb == "not fused"]
    assert [(each.count, each.passes, each.what, each.where) for each in found] == [
        (2, "fuse-attention", why, "layers"),
        (1, "fuse-attention", "the bias is used elsewhere", "embed"),
    ]
    focused = [change for change in draw(run, "layers.1").changes if change.verb == "not fused"]
    assert [(each.count, each.where) for each in focused] == [(1, "layers.1.out")]
