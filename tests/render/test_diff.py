"""What became of every node."""

from __future__ import annotations

import torch
from torch.fx import Node

from tests.render.models import JoinLinears, X, op, stages, view
from tests.small import Copy
from txgraph import NodePass, Pipeline, Rewrite
from txgraph.ir import GraphBuilder, op_name
from txgraph.passes.canonicalize.remove_identities import RemoveIdentities
from txgraph.passes.fold.fold_constants import FoldConstants
from txgraph.passes.fuse.fuse_linear_activation import FuseLinearActivation
from txgraph.render.diff import UNCHANGED, Fate, Fates, Status, compare, replaced_paths
from txgraph.render.view import view_of


class Small(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = torch.nn.Linear(4, 4)
        self.b = torch.nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.gelu(self.a(x)) + self.b(x).view(4, 2).sum()


def fates(*passes: object) -> tuple[dict[str, Fate], dict[str, Fate]]:
    """Fates before and after by operator; the operators of ``Small`` are told apart by it, but for the linears."""
    run = stages(Small(), X, passes=Pipeline(passes))  # type: ignore[arg-type]  # passes
    views = view_of(run.before), view_of(run.after)
    found = compare(*views, run.rewrites)
    by_op = [{views[at][name].op: fate for name, fate in found[at].items()} for at in (0, 1)]
    return by_op[0], by_op[1]


def test_a_fusion_marks_both_sides_with_one_group() -> None:
    before, after = fates(FuseLinearActivation())
    assert before["gelu"] == after["txgraph::linear_activation"]
    assert before["gelu"].status is Status.FUSED
    assert before["gelu"].passes == ("fuse-linear-activation",)
    assert before["gelu"].group is not None
    assert before["add"] == after["add"] == before["x"] == before["output"] == UNCHANGED


def test_what_only_arranges_the_result_of_a_fusion_is_added() -> None:
    before, after = fates(JoinLinears())
    assert before["linear"].status is after["linear"].status is Status.FUSED
    assert after["split_with_sizes"].status is Status.ADDED
    assert after["split_with_sizes"].group == before["linear"].group


def test_one_for_one_is_changed() -> None:
    class OtherActivation(NodePass):
        def rewrite(self, node: Node, g: GraphBuilder) -> Node | None:
            return g.aten.silu(node.args[0]) if op_name(node) == "gelu" else None

    before, after = fates(OtherActivation())
    assert before["gelu"].status is after["silu"].status is Status.CHANGED
    assert before["gelu"].passes == ("other-activation",)


def test_an_identity_is_removed_and_its_pass_named() -> None:
    run = stages(torch.nn.Sequential(torch.nn.Linear(4, 4), Copy(), torch.nn.Tanh()), X)
    before = compare(view_of(run.before), view_of(run.after), run.rewrites)[0]
    assert before["clone"] == Fate(Status.REMOVED, "removed by", ("remove-identities",), ("remove-identities",))


def test_what_nobody_needs_any_more_names_the_pass_that_made_it_so() -> None:
    class Table(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + (torch.arange(4).unsqueeze(0) * 2).clone()

    run = stages(Table(), X, passes=Pipeline((RemoveIdentities(), FoldConstants())))
    before = compare(view_of(run.before), view_of(run.after), run.rewrites)[0]
    assert before["mul"].how == "removed by"
    assert before["unsqueeze"] == Fate(Status.REMOVED, "unused after", ("fold-constants",))


def by_hand(rewrites: list[Rewrite], *after: str) -> tuple[Fates, Fates]:
    chain = [op("x", "input"), op("a", "relu", "x"), op("b", "tanh", "a"), op("c", "abs", "b")]
    left = [op("x", "input"), *(op(name, "new", "x") for name in after)]
    return compare(view(*chain), view(*left), rewrites)


def test_rewrites_of_rewrites_are_one_group_named_after_the_last() -> None:
    before, after = by_hand([Rewrite("first", ("a", "b"), ("m",)), Rewrite("second", ("m", "c"), ("n",))], "n")
    assert after["n"].status is Status.FUSED
    assert {before[n].group for n in "abc"} == {after["n"].group}
    assert {before[n].passes for n in "abc"} == {("second",)}
    assert before["a"].trail == ("first", "second")
    assert before["c"].trail == ("second",)


def test_a_name_that_is_used_again_is_another_node() -> None:
    before, after = by_hand([Rewrite("first", ("a", "b"), ("m",)), Rewrite("second", ("m", "c"), ("a",))], "a")
    assert before["a"].status is after["a"].status is Status.FUSED
    assert before["a"].how == "fused by"


def test_a_replaced_node_that_stays_is_unchanged_and_joins_nothing() -> None:
    kept = op("a", "relu", "x")
    before, after = compare(
        view(op("x", "input"), kept, op("b", "tanh", "a"), op("c", "abs", "a")),
        view(op("x", "input"), kept, op("m", "new", "a"), op("n", "new", "a")),
        [Rewrite("one", ("b", "a"), ("m",)), Rewrite("two", ("c", "a"), ("n",))],
    )
    assert before["a"] == after["a"] == UNCHANGED
    assert after["m"].group != after["n"].group


def test_joined_views_are_replaced_not_fused() -> None:
    shape = {"is_view": True}
    before, after = compare(
        view(op("x", "input"), op("a", "view", "x", **shape), op("b", "view", "a", **shape)),
        view(op("x", "input"), op("m", "reshape", "x", **shape)),
        [Rewrite("join", ("a", "b"), ("m",))],
    )
    assert (before["a"].status, before["a"].how) == (Status.REMOVED, "replaced by")
    assert after["m"].status is Status.ADDED


def test_without_records_nodes_are_told_apart_by_name() -> None:
    before, after = by_hand([], "n")
    assert before["x"] == UNCHANGED
    assert before["a"].status is before["c"].status is Status.REMOVED
    assert after["n"].status is Status.ADDED


def test_a_node_whose_type_changed_in_place() -> None:
    before, after = compare(
        view(op("x", "input"), op("a", "relu", "x")),
        view(op("x", "input"), op("a", "relu", "x", type="bf16[4]", passes=("lower-precision",))),
        [],
    )
    assert before["a"] == after["a"] == Fate(Status.CHANGED, "changed by", ("lower-precision",), ("lower-precision",))


def test_a_fused_node_stands_in_the_module_its_parts_have_in_common() -> None:
    def paths(first: str, second: str, made: str) -> object:
        before = view(op("x", "input"), op("a", "relu", "x", path=first), op("b", "tanh", "a", path=second))
        after = view(op("x", "input"), op("m", "new", "x", path=made))
        return replaced_paths(before, after, compare(before, after, [Rewrite("fuse", ("a", "b"), ("m",))])).get("m")

    assert paths("layer.0.self.q", "layer.0.self.k", "layer.0.self.k") == ("layer", "0", "self")
    assert paths("layer.0.out", "layer.1.norm", "layer.1.norm") is None  # it stays in one of the layers
