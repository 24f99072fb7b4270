"""Which layers are drawn once."""

from __future__ import annotations

import torch
from torch import nn

from tests.render.models import Block, Stack, X, op, stages, view
from txgraph.render.fold import Folding, Repeat, fold
from txgraph.render.view import Op, Path, View, view_of


def folded(model: nn.Module, *args: torch.Tensor) -> tuple[Folding, tuple[View, View]]:
    run = stages(model, *(args or (X,)))
    views = (view_of(run.before), view_of(run.after))
    return fold(views), views


def repeats(model: nn.Module) -> dict[Path, tuple[str, ...]]:
    return {path: repeat.members for path, repeat in folded(model)[0].repeats.items()}


def test_equal_layers_are_drawn_once() -> None:
    folding, views = folded(Stack(8, 8, 8))
    assert folding.repeats == {("layers", "0"): Repeat(("0", "1", "2"))}
    for at, view_ in enumerate(views):
        drawn = {view_[name].path[:2] for name in folding.representatives(at)}
        assert drawn == {(), ("embed",), ("layers", "0")}
        instances = folding.instances(at)
        assert all(len(instances[n]) == 3 for n in folding.representatives(at) if view_[n].path[:1] == ("layers",))
        assert all(view_[name].op == view_[drawn].op for name, drawn in folding.drawn[at].items())


def test_unequal_layers_are_not() -> None:
    assert repeats(Stack(8, 6)) == {}


def test_a_different_first_layer_stands_alone() -> None:
    assert repeats(Stack(6, 8, 8, 8)) == {("layers", "1"): ("1", "2", "3")}


def test_alternating_layers_fold_by_their_period() -> None:
    assert repeats(Stack(8, 6, 8, 6, 8, 6)) == {("layers", "0"): ("0", "2", "4"), ("layers", "1"): ("1", "3", "5")}


def test_the_fewest_layers_are_left_to_draw() -> None:
    members = repeats(Stack(8, 8, 8, 6, 8, 8, 8, 6))
    assert members == {("layers", "0"): ("0", "1", "2"), ("layers", "4"): ("4", "5", "6")}


def test_a_layer_that_was_rewritten_otherwise_is_drawn_apart() -> None:
    run = stages(Stack(8, 8, 8), X)
    views = (view_of(run.before), view_of(run.before))
    name = next(n for n, o in views[1].items() if o.path[:2] == ("layers", "2"))
    changed = {**views[1], name: op(name, "other", *(a.source for a in views[1][name].arrows), path="layers.2")}
    assert fold((views[0], changed)).repeats == {("layers", "0"): Repeat(("0", "1"))}


def test_what_all_layers_use_stands_outside_of_the_first() -> None:
    ops = [op("x", "input")]
    for at, source in enumerate(("x", "sum0", "sum1", "sum2")):
        path = f"layers.{at}"
        if at == 0:
            ops += [op("table", "arange", path=path), op("bias", "embedding", "table", path=f"{path}.bias")]
        ops += [op(f"act{at}", "relu", source, path=path), op(f"sum{at}", "add", f"act{at}", "bias", path=path)]
    folding = fold([view(*ops)])
    assert folding.repeats == {("layers", "0"): Repeat(("0", "1", "2", "3"))}
    assert folding.paths[0]["bias"] == folding.paths[0]["table"] == ("layers",)
    assert folding.paths[0]["act0"] == ("layers", "0")


def test_calls_of_one_module_fold_where_each_uses_the_last() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = Block()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.block(self.block(self.block(x)))

    folding, _ = folded(Shared())
    assert folding.repeats == {("block",): Repeat(("block", "block@1", "block@2"))}
    assert folding.repeats[("block",)].text == "block"


def test_two_uses_of_one_module_side_by_side_are_drawn_both() -> None:
    def norm(call: str, source: str) -> list[Op]:
        return [op(f"{call}.a", "square", source, path=call), op(f"{call}.b", "mean", f"{call}.a", path=call)]

    ops = [op("x", "input"), *norm("norm", "x"), *norm("norm@1", "x"), op("y", "add", "norm.b", "norm@1.b")]
    assert fold([view(*ops)]).repeats == {}


def test_interleaved_module_lists_are_not_folded() -> None:
    class Interleaved(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
            self.second = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for first, second in zip(self.first, self.second, strict=True):
                x = second(first(x).tanh())
            return x

    assert repeats(Interleaved()) == {}


def test_lists_in_lists() -> None:
    class Experts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.experts = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.stack([expert(x) for expert in self.experts]).sum(0)

    folding, (before, _) = folded(nn.Sequential(Experts(), Experts()))
    assert folding.repeats == {("0",): Repeat(("0", "1")), ("0", "experts", "0"): Repeat(("0", "1", "2", "3"))}
    linears = [n for n in folding.representatives(0) if before[n].op == "linear"]
    assert len(linears) == 1
    assert len(folding.instances(0)[linears[0]]) == 8


def test_the_order_of_independent_operators_does_not_matter() -> None:
    def layer(at: int, source: str, swapped: bool) -> list[Op]:
        path = f"layers.{at}"
        left, right = (
            op(f"left{at}", "exp", source, path=path),
            op(f"right{at}", "log", source, path=path),
        )
        pair = [right, left] if swapped else [left, right]
        return [*pair, op(f"sum{at}", "add", f"left{at}", f"right{at}", path=path)]

    ops = [op("x", "input"), *layer(0, "x", False), *layer(1, "sum0", True), *layer(2, "sum1", False)]
    folding = fold([view(*ops)])
    assert folding.repeats == {("layers", "0"): Repeat(("0", "1", "2"))}
    assert folding.drawn[0]["left1"] == "left0"


def test_other_connections_are_another_layer() -> None:
    def layer(at: int, source: str, *ends: str) -> list[Op]:
        path = f"layers.{at}"
        first = op(f"a{at}", "exp", source, path=path)
        return [first, op(f"b{at}", "log", source, path=path), op(f"c{at}", "sub", *ends, path=path)]

    ops = [op("x", "input"), *layer(0, "x", "a0", "b0"), *layer(1, "c0", "b1", "a1")]
    assert fold([view(*ops)]).repeats == {}


def test_how_a_run_is_named() -> None:
    assert Repeat(tuple(map(str, range(12)))).text == "0..11"
    assert Repeat(("1", "3", "5")).text == "1,3,5"
    assert Repeat(tuple(str(i) for i in range(0, 12, 2))).text == "0,2,..,10"
