"""Calls that come after others: what changed in between is seen, and no answer is stale."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import txgraph
from tests.reliability.block import WIDTH, Block, block, normal, optimized
from tests.small import MLP, Encoder, Linear, assert_as_eager, bits, module
from tests.zoo import tokens

X = torch.arange(8.0).reshape(2, 4)


def assert_answers(fast: txgraph.OptimizedModel, model: nn.Module, *args: Any, **kwargs: Any) -> None:
    assert_as_eager(fast(*args, **kwargs), model, *args, **kwargs)


# -- sizes, dtypes, devices ----------------------------------------------------------------------------------------


BRANCHES: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], tuple[tuple[int, int], ...]]] = {
    "even or odd": (lambda x: x + 1 if x.shape[0] % 2 == 0 else x - 1, ((4, 3), (5, 2), (6, 3))),
    "one axis longer than the other": (lambda x: x + 1 if x.shape[0] > x.shape[1] else x - 1, ((4, 3), (5, 2), (3, 6))),
    "one axis twice the other": (lambda x: x + 1 if 2 * x.shape[0] == x.shape[1] else x - 1, ((4, 3), (5, 2), (3, 6))),
    "one size": (lambda x: x + 1 if x.shape[0] == 7 else x - 1, ((4, 3), (5, 3), (7, 3))),
    "padded to a multiple of 4": (lambda x: nn.functional.pad(x, (0, -x.shape[1] % 4)), ((2, 3), (2, 5), (3, 6))),
    "short or long": (lambda x: x + 1 if x.shape[0] > 3 else x - 1, ((2, 3), (5, 3), (3, 3))),
}


@pytest.mark.parametrize("name", BRANCHES)
def test_a_branch_on_sizes(name: str) -> None:
    """What forward() asked about the sizes of the second call does not hold for the third."""
    function, sizes = BRANCHES[name]
    model = module(function)
    fast = optimized(model)
    for size in sizes:
        x = torch.arange(float(size[0] * size[1])).reshape(size)
        assert torch.equal(fast(x), model(x)), size


def test_dtypes_of_a_mask() -> None:
    model, inputs = Encoder(), tokens(2, 6)
    fast = optimized(model, verify="off")
    kinds = (torch.int64, torch.bool, torch.int64)
    for dtype in kinds:
        given = {**inputs, "attention_mask": inputs["attention_mask"].to(dtype)}
        assert_answers(fast, model, **given)
    assert len(fast.report.graphs) == len(set(kinds))


def test_a_dtype_that_eager_refuses() -> None:
    """Its own error; the graph that was there still answers."""
    model = Linear().eval()
    fast = optimized(model, X)
    with pytest.raises(RuntimeError, match="must have the same dtype"):
        model(X.double())
    with pytest.raises(RuntimeError, match="must have the same dtype"):
        fast(X.double())
    assert torch.equal(fast(X), model(X))
    assert len(fast.report.graphs) == 1


def test_another_device() -> None:
    """Named, both of them; the graph that was there still answers."""
    model = Linear().eval()
    fast = optimized(model, X)
    with pytest.raises(txgraph.CaptureFailed, match=r"small\.py:\d+ in .*\n.*same device.*(cpu and meta|meta and cpu)"):
        fast(X.to("meta"))
    assert torch.equal(fast(X), model(X))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("autocast", "the mode is new: train or eval flags, autocast"),
        ("train", "the mode is new: train or eval flags"),
        ("dtype", r"input is f64\[2, 4\] on cpu, captured as f32\[2, 4\]"),
        ("size", r"input is f32\[3, 4\] on cpu, captured as f32\[2, 4\]"),
    ],
)
def test_no_graph_left_for_a_change(change: str, named: str) -> None:
    """The error says what changed."""
    model = nn.Linear(4, 4).eval()
    fast = optimized(model, X, options={"max_graphs": 1})
    x = {"dtype": X.double(), "size": torch.ones(3, 4)}.get(change, X)
    model.train(change == "train")
    with (
        torch.autocast("cpu", torch.bfloat16, enabled=change == "autocast"),
        pytest.raises(txgraph.GuardFailed, match=named),
    ):
        fast(x)


# -- modes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["", "dropout"], ids=["the model", "one dropout"])
def test_dropout_in_training(part: str) -> None:
    """A graph without dropout does not answer for a model that drops; back in eval mode it answers again."""
    model, inputs = Encoder(), tokens(2, 6)
    fast = optimized(model, kwargs=inputs, verify="off")
    assert not any("dropout" in name for name in fast.graph_after.count())
    model.get_submodule(part).train()
    with pytest.raises(txgraph.CaptureFailed, match=r"draws random numbers at .*dropout.*call model.eval\(\)"):
        fast(**inputs)
    model.eval()
    assert_answers(fast, model, **inputs)
    assert len(fast.report.graphs) == 1


def test_grad_and_inference_modes() -> None:
    """One graph answers in all of them: the layer of torch takes another road in eager."""
    torch.manual_seed(0)
    model, x = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).eval(), normal(2, 5)
    fast = optimized(model, x, verify="final")
    for mode in (torch.enable_grad, torch.no_grad, torch.inference_mode):
        with mode():
            result = fast(x)
            assert not result.requires_grad
            assert_as_eager(result, model, x)
    assert len(fast.report.graphs) == 1


def test_autocast_of_a_block() -> None:
    """There and back."""
    model, x = block(), normal(2, 5)
    fast = optimized(model, x, verify="off")
    for dtype in (torch.bfloat16, None, torch.bfloat16):
        with torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None), torch.no_grad():
            assert_as_eager(fast(x), model, x)
    assert len(fast.report.graphs) == 2


def test_another_default_dtype() -> None:
    model = module(lambda x: x.sum() * torch.ones(3))
    fast = optimized(model, X)
    torch.set_default_dtype(torch.float64)
    try:
        assert fast(X).dtype is model(X).dtype
    finally:
        torch.set_default_dtype(torch.float32)


# -- plain arguments -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("default", [1.0, 0.0])
def test_the_sign_of_a_zero_argument(default: float) -> None:
    def forward(x: torch.Tensor, scale: float = default) -> torch.Tensor:
        return x * scale

    fast = optimized(module(forward))
    for scale in (0.0, -0.0):
        assert torch.equal(bits(fast(X + 1, scale)), bits(forward(X + 1, scale)))


def test_plain_arguments_that_look_alike() -> None:
    """Each has its own answer."""

    def forward(x: torch.Tensor, kind: object = 0) -> torch.Tensor:
        return x * {int: 2, bool: 3, float: 4, str: 5, type(None): 6}[type(kind)]

    fast = optimized(module(forward), verify="off")
    kinds = (0, 1, True, 1.0, "1", None)
    for kind in (*kinds, *kinds):
        assert torch.equal(fast(X, kind), forward(X, kind))


class Branch(nn.Module):
    """A branch on a value, which no graph can hold."""

    def forward(self, x: Any, other: object = None) -> torch.Tensor:
        x = x["x"] if isinstance(x, dict) else x
        return x + 1 if x.sum() > 0 else x - 1


@pytest.mark.parametrize(
    "other",
    [
        None,
        {"a": [1, "text"]},
        np.ones(2),
        {1, 2},
        bytearray(b"text"),
    ],
    ids=["none", "dict", "array", "set", "bytes"],
)
def test_eager_where_it_is_allowed_takes_every_argument(other: object) -> None:
    """A value that no graph takes is no reason not to run in eager."""
    fast = optimized(Branch(), options={"allow_fallback": True})
    for x in (X, -X):
        assert torch.equal(fast(x, other), Branch()(x, other))
        assert torch.equal(fast({"x": x}, other), Branch()(x, other))
    assert len(fast.report.fallbacks) == 2
    assert all("runs eager" in f.reason for f in fast.report.fallbacks)


# -- weights -------------------------------------------------------------------------------------------------------


class Tied(nn.Module):
    """Words looked up and predicted by one weight, a layer between."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words, self.layer, self.head = nn.Embedding(90, WIDTH), Block(), nn.Linear(WIDTH, 90, bias=False)
        self.scaled = nn.Linear(WIDTH, WIDTH)  # the scale is folded into its weight
        self.head.weight = self.words.weight
        self.eval()

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(torch.tanh(self.scaled(self.layer(self.words(ids))) * 0.3))


IDS = tokens(2, 6)["input_ids"]


def test_tied_weights() -> None:
    """One constant before, one after; changed at one place they change at both; untied they are two."""
    model = Tied()
    fast = optimized(model, IDS, verify="final")
    for graph in (fast.graph_before, fast.graph_after):
        assert {"words.weight", "head.weight"} & set(graph.constants) == {"words.weight"}
    with torch.no_grad():
        model.head.weight.mul_(2)
    assert_answers(fast, model, IDS)
    assert len(fast.report.graphs) == 1
    model.head.weight = nn.Parameter(model.words.weight.detach() * 3)
    assert_answers(fast, model, IDS)
    assert {"words.weight", "head.weight"} <= set(fast.graph_after.constants)


def test_training_between_calls() -> None:
    """A step of an optimizer on all weights, folded or not; then a checkpoint from before."""
    model = Tied()
    fast = optimized(model, IDS, verify="off")
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    model.train()
    nn.functional.cross_entropy(model(IDS).flatten(0, 1), IDS.flatten()).backward()
    optimizer.step()
    model.eval()
    assert_answers(fast, model, IDS)
    model.load_state_dict(before)
    assert_answers(fast, model, IDS)
    assert len(fast.report.notes) == 2
    assert all("was changed in place" in note for note in fast.report.notes)


class Scores(nn.Module):
    """A linear whose weight is folded with a scale, and others that are only read."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.query, self.key, self.out = (nn.Linear(4, 4) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out((self.query(x) * 0.3) @ self.key(x).t() @ x)


def test_weights_of_compiled_code() -> None:
    """The default backend: a weight that is only read changes the answer, one that was folded the code."""
    model = Scores()
    fast = txgraph.optimize(model, (X,), verify="final")
    with torch.no_grad():
        model.out.weight.mul_(2)
        assert_answers(fast, model, X)
        assert fast.report.notes == []
        model.query.weight.mul_(2)
    assert_answers(fast, model, X)
    assert len(fast.report.notes) == 1


def through_data(model: nn.Module) -> None:
    model.layer.weight.data = model.layer.weight.data.t()


def in_place(model: nn.Module) -> None:
    with torch.no_grad():
        model.layer.weight.t_()


def fewer(model: nn.Module) -> None:
    model.layer.weight.data = model.layer.weight.data[:2]
    model.layer.bias.data = model.layer.bias.data[:2]


@pytest.mark.parametrize("change", [through_data, in_place, fewer])
def test_a_weight_with_the_same_memory_and_another_shape(change: Callable[[nn.Module], None]) -> None:
    """Transposed by assignment to .data, transposed in place, and cut off."""
    model = Linear().eval()
    fast = optimized(model, X)
    change(model)
    assert torch.equal(fast(X), model(X))


class Listed(nn.Module):
    """Weights that stand in a list: neither parameters nor attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = [torch.eye(4), torch.full((4, 4), 2.0)]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, self.weights[0]) * nn.functional.linear(x, self.weights[1])


def multiply(model: Listed) -> None:
    model.weights[0].mul_(3)


def exchange(model: Listed) -> None:
    model.weights.reverse()
    model.weights[0] = torch.ones(4, 4)


@pytest.mark.parametrize("change", [multiply, exchange])
def test_tensors_in_a_list(change: Callable[[Listed], None]) -> None:
    """Their values are folded into the graph, or they are replaced."""
    model = Listed()
    fast = optimized(model, X)
    change(model)
    assert torch.equal(fast(X), model(X))


class Optional(nn.Module):
    """Adds a buffer, if it has one."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + dict(self.named_buffers()).get("further", torch.ones(4))


def test_a_first_buffer_that_is_added() -> None:
    model = Optional().eval()
    fast = optimized(model, X)
    model.register_buffer("further", torch.full((4,), 7.0))
    assert torch.equal(fast(X), model(X))


def test_a_plain_number_of_the_call() -> None:
    model = MLP()
    fast = optimized(model, X, 2.0)
    for scale in (2.0, 3.0, 2.0):
        assert_answers(fast, model, X, scale)
    assert len(fast.report.graphs) == 2
