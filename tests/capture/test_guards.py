"""What a graph assumed about inputs and model is checked at every call."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.export import Dim

from tests.small import MLP, graph_of, module
from txgraph.capture import InputGuard, ModelState, unchanged
from txgraph.capture.guards import explain_mismatch
from txgraph.ir import Graph

X = torch.ones(3, 4)


def dynamic() -> Graph:
    """x: [B, S], y: [S, 4] with B in 2..8."""
    batch, length = Dim("batch", min=2, max=8), Dim("length", min=2)
    shapes = {"x": {0: batch, 1: length}, "y": {0: length}}
    return graph_of(lambda x, y: x @ y, torch.ones(3, 5), torch.ones(5, 4), dynamic_shapes=shapes)


def held(model: nn.Module, *names: str) -> dict[str, torch.Tensor]:
    """Tensors of a model by name, as a graph holds them."""
    tensors = {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers()), **vars(model)}
    return {name: tensors[name].detach() for name in names}


def test_static_shapes() -> None:
    guard = InputGuard.of(graph_of(MLP(), X))
    assert guard.accepts([torch.zeros(3, 4)])
    assert not guard.accepts([torch.zeros(2, 4)])
    assert not guard.accepts([torch.zeros(3, 4, 1)])
    assert not guard.accepts([torch.zeros(12)])
    assert not guard.accepts([torch.zeros(3, 4, dtype=torch.float64)])
    assert not guard.accepts([torch.zeros(3, 4, device="meta")])


@pytest.mark.parametrize(
    ("x", "y", "accepted"),
    [
        ((3, 5), (5, 4), True),
        ((2, 2), (2, 4), True),
        ((8, 100), (100, 4), True),
        ((9, 5), (5, 4), False),
        ((1, 5), (5, 4), False),
        ((3, 1), (1, 4), False),
        ((3, 5), (6, 4), False),
        ((3, 5), (5, 3), False),
        ((0, 5), (5, 4), False),
    ],
)
def test_symbolic_shapes(x: tuple[int, int], y: tuple[int, int], accepted: bool) -> None:
    assert InputGuard.of(dynamic()).accepts([torch.zeros(x), torch.zeros(y)]) == accepted


def test_a_range_from_one() -> None:
    graph = graph_of(MLP(), X, dynamic_shapes={"x": {0: Dim("batch", min=1, max=4)}})
    guard = InputGuard.of(graph)
    assert [guard.accepts([torch.zeros(n, 4)]) for n in (0, 1, 4, 5)] == [False, True, True, False]


def test_sizes_that_are_expressions_of_others() -> None:
    length = Dim("length", min=2, max=50)
    shapes = {"x": {0: length + 1}, "y": {0: length}}
    graph = graph_of(lambda x, y: x[1:] + y, torch.ones(8), torch.ones(7), dynamic_shapes=shapes)
    guard = InputGuard.of(graph)
    sizes = [(8, 7), (12, 11), (12, 12), (52, 51)]
    assert [guard.accepts([torch.zeros(a), torch.zeros(b)]) for a, b in sizes] == [True, True, False, False]


def test_an_expression_of_which_no_axis_is_the_symbol() -> None:
    half = Dim("half", min=2, max=50)
    graph = graph_of(lambda x: x.reshape(-1, 2).sum(1), torch.ones(8), dynamic_shapes={"x": {0: 2 * half}})
    guard = InputGuard.of(graph)
    assert [guard.accepts([torch.zeros(n)]) for n in (4, 8, 9, 100, 102, 2)] == [True, True, False, True, False, False]


def test_scalars_and_no_tensors() -> None:
    guard = InputGuard.of(graph_of(lambda x: x + 1, torch.tensor(1.0)))
    assert guard.accepts([torch.tensor(2.0)])
    assert not guard.accepts([torch.ones(1)])
    model = module(lambda: model.weight * 2, weight=nn.Parameter(torch.ones(2)))
    assert InputGuard.of(graph_of(model)).accepts([])


def test_strides_do_not_matter() -> None:
    assert InputGuard.of(graph_of(MLP(), X)).accepts([torch.zeros(4, 3).t()])


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ([torch.ones(3, 5).double(), torch.ones(5, 4)], "x is f64[3, 5] on cpu, captured as f32[B, S] on cpu"),
        ([torch.ones(3, 5, 1), torch.ones(5, 4)], "x is f32[3, 5, 1] on cpu, captured as f32[B, S] on cpu"),
        ([torch.ones(3, 5), torch.ones(5, 3)], "y is f32[5, 3] on cpu, captured as f32[S, 4]"),
        (
            [torch.ones(9, 5), torch.ones(5, 4)],
            "sizes do not fit the captured ranges (B in [2, 8], S in [2, ∞]) or are not equal where they were",
        ),
    ],
)
def test_mismatches_are_explained(tensors: list[torch.Tensor], message: str) -> None:
    assert explain_mismatch(dynamic(), ["x", "y"], tensors) == message


# -- the model's state ---------------------------------------------------------------------------------------------


@pytest.fixture(params=["in C", "by map"], autouse=True)
def found_out(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is where there is a compiler at installation, and where there is none."""
    if request.param == "by map":
        monkeypatch.setattr(unchanged, "_library", lambda: None)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
        self.empty = nn.ModuleList()
        self.no_bias = nn.Linear(4, 4, bias=False)
        self.register_buffer("scale", torch.ones(4))
        self.table = torch.ones(4)
        self.tables = [torch.ones(4), torch.ones(4)]
        self.eval()


def in_place(model: Model) -> None:
    with torch.no_grad():
        model.layers[0].weight.mul_(2)


UNSEEN: dict[str, Callable[[Model], Any]] = {
    "in place": in_place,
    "gradients": lambda m: m.layers[0](X).sum().backward(),
    "the same state dict": lambda m: m.load_state_dict(copy.deepcopy(m.state_dict())),
    "the same dtype": lambda m: m.to(torch.float32),
    "requires_grad": lambda m: m.requires_grad_(False),
}
SEEN: dict[str, tuple[Callable[[Model], Any], str]] = {
    "parameter": (lambda m: setattr(m.layers[0], "weight", nn.Parameter(torch.ones(4, 4))), "was replaced or added"),
    "buffer": (lambda m: setattr(m, "scale", torch.zeros(4)), "was replaced or added"),
    "module": (lambda m: m.layers.__setitem__(0, nn.Linear(4, 4)), "was replaced or added"),
    "module to None": (lambda m: setattr(m, "no_bias", None), "was replaced or added"),
    "module added": (lambda m: m.layers.append(nn.Linear(4, 4)), "was replaced or added"),
    "module added to nothing": (lambda m: m.empty.append(nn.Linear(4, 4)), "was replaced or added"),
    "bias added": (lambda m: setattr(m.no_bias, "bias", nn.Parameter(torch.ones(4))), "was replaced or added"),
    "bias removed": (lambda m: setattr(m.layers[0], "bias", None), "was replaced or added"),
    "parameter deleted": (lambda m: delattr(m.layers[0], "bias"), "'bias' was removed from the model"),
    "plain tensor": (lambda m: setattr(m, "table", torch.zeros(4)), "was replaced or added"),
    "item of a list": (lambda m: m.tables.__setitem__(1, torch.zeros(4)), "was replaced or added"),
    "transposed": (lambda m: m.layers[0].weight.requires_grad_(False).t_(), "another shape or other strides"),
    "cut": (lambda m: m.table.resize_(3), "another shape or other strides"),
    "swapped": (lambda m: torch.utils.swap_tensors(m.table, torch.zeros(4)), "got new storage"),
    "data": (lambda m: setattr(m.layers[0].weight, "data", torch.ones(4, 4)), "got new storage"),
    "dtype": (lambda m: m.no_bias.to(torch.bfloat16), "moved to another dtype"),
    "assigned state dict": (
        lambda m: m.load_state_dict(copy.deepcopy(m.state_dict()), assign=True),
        "replaced or added",
    ),
}


@pytest.mark.parametrize("change", UNSEEN.values(), ids=list(UNSEEN))
def test_changes_that_a_graph_survives(change: Callable[[Model], Any]) -> None:
    model = Model()
    state = ModelState(model)
    change(model)
    assert state.change() == ""
    assert state.same_mode()


@pytest.mark.parametrize(("change", "message"), SEEN.values(), ids=list(SEEN))
def test_changes_that_make_a_graph_stale(change: Callable[[Model], Any], message: str) -> None:
    model = Model()
    state = ModelState(model)
    assert state.change() == ""
    change(model)
    assert message in state.change()


@pytest.mark.parametrize("name", ["layers.0.weight", "scale", "table"])
def test_values_that_are_folded_into_the_graph(name: str) -> None:
    model = Model()
    state, other = ModelState(model, held(model, *(name,))), ModelState(model, held(model, *("layers.0.bias",)))
    with torch.no_grad():
        eval(f"model.{name}".replace("layers.0", "layers[0]")).mul_(2)
    assert state.change() == f"{name} was changed in place, and its values are folded into the graph"
    assert other.change() == ""


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_folded_values_that_are_written_past_the_version_counter(dtype: torch.dtype) -> None:
    model = Model().to(dtype)
    model.scalar = nn.Parameter(torch.ones((), dtype=dtype))
    message = "a weight was written to through .data, and its values are folded into the graph"
    for write in (
        lambda: model.layers[0].weight.data.mul_(2),
        lambda: model.layers[0].weight.detach().view(torch.uint8).numpy().fill(1),
        lambda: model.scalar.data.add_(1),
    ):
        state = ModelState(
            model,
            held(
                model,
                *(
                    "layers.0.weight",
                    "scalar",
                ),
            ),
        )
        other = ModelState(model, held(model, *("layers.0.bias",)))
        write()
        assert state.change() == message
        assert other.change() == ""


def test_folded_tied_weights() -> None:
    model = Model()
    model.tied = nn.Linear(4, 4)
    model.tied.weight = model.layers[0].weight
    state = ModelState(model, held(model, *("tied.weight",)))
    in_place(model)
    assert "tied.weight was changed in place" in state.change()


@pytest.mark.parametrize("part", [lambda m: m, lambda m: m.layers[1]])
def test_train_and_eval(part: Callable[[Model], nn.Module]) -> None:
    model = Model()
    state = ModelState(model)
    part(model).train()
    assert not state.same_mode()
    part(model).eval()
    assert state.same_mode()
    assert state.change() == ""


def test_autocast() -> None:
    state = ModelState(Model())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not state.same_mode()
        inside = ModelState(Model())
        assert inside.same_mode()
    with torch.autocast("cpu", dtype=torch.float16):
        assert not inside.same_mode()
    assert state.same_mode()
    assert not inside.same_mode()


def test_a_model_without_weights() -> None:
    state = ModelState(nn.ReLU())
    assert state.change() == ""
    assert state.same_mode()
