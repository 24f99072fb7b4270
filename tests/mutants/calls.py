"""Faults that show in later calls: guards, and what is noticed of a model that has changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.fx import Node

from tests.mutants.compiled import SUMS
from tests.mutants.edits import always, numbers
from tests.mutants.mutant import Fault, Mutant, Scenario, Twins
from txgraph import compiled_call
from txgraph.capture import calls, export, guards
from txgraph.capture.guards import ModelState
from txgraph.compiled_call import CompiledCall
from txgraph.ir import ConstantStore, Graph
from txgraph.ir.known_values import KnownValues

Tensor = torch.Tensor
X, Y = numbers((4, 8), (4, 8))


class Mean(nn.Module):
    """Divides by the number of rows."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sum(0) / x.shape[0]


class Lowest(nn.Module):
    """Fills with the lowest number of the dtype."""

    def forward(self, x: Tensor) -> Tensor:
        return x.masked_fill(x > 0, torch.finfo(x.dtype).min)


class Power(nn.Module):
    """Takes a plain number, too."""

    def forward(self, x: Tensor, factor: float = 2.0) -> Tensor:
        return torch.sin(x * factor)


class Switch(nn.Module):
    """Does something else in training mode."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(x) if self.training else torch.cos(x)


class Even(nn.Module):
    """Does something else for an even number of rows."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(x) if x.shape[0] % 2 else torch.cos(x)


def _rows(twins: Twins) -> None:
    for rows in (4, 5, 6):
        twins.call(x=torch.ones(rows, 8))


class Scaled(nn.Module):
    """Two linears of one input; the scale of one is folded into its weight, which copies it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.query, self.key = nn.Linear(8, 64), nn.Linear(8, 64)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.query(x)) * (self.key(x) * 0.3)


class Alone(nn.Module):
    """One linear, whose weight is only read."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(8, 8)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.layer(x)
        return result


class Masked(nn.Module):
    """Attention whose mask is a buffer: it is looked at, and found to be causal."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", torch.ones(4, 4, dtype=torch.bool).tril())

    def forward(self, x: Tensor) -> Tensor:
        q = x.view(1, 1, 4, 8)
        return F.scaled_dot_product_attention(q, q * 2, torch.sin(q), self.mask)


class Steps(nn.Module):
    """Counts its calls in a buffer, and reads that."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("steps", torch.zeros(8))

    def forward(self, x: Tensor) -> Tensor:
        self.steps.add_(1.0)
        return x * torch.sin(self.steps * 0.5)


class Dropout(nn.Module):
    """With dropout; made in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.dropout(x)
        return result


def _overlapping(twins: Twins) -> None:
    both = X.clone()
    twins.call(x=X.clone(), y=Y.clone())
    twins.call(x=both, y=both)


def _changed(edit: Callable[[Any], object]) -> Callable[[Twins], None]:
    """A call, a change of the model, and the same call."""

    def steps(twins: Twins) -> None:
        twins.call(x=X)
        twins.change(edit)
        twins.call(x=X)

    return steps


def _other_shape(twins: Twins) -> None:
    twins.call(x=X)
    twins.call(x=X[:3])


def _other_dtype(twins: Twins) -> None:
    twins.call(x=X)
    twins.call(x=X.double())


def _other_number(twins: Twins) -> None:
    twins.call(x=X, factor=3.0)
    twins.call(x=X, factor=5.0)


def _autocast(twins: Twins) -> None:
    twins.call(x=X)
    with torch.autocast("cpu", torch.bfloat16):
        twins.call(x=X)


def _gradient(twins: Twins) -> None:
    twins.call(x=X)
    twins.call(x=X.clone().requires_grad_())


def _three_calls(twins: Twins) -> None:
    for _ in range(3):
        twins.call(x=X)
    twins.compiled(1)


def _one_element(model: Any) -> None:
    """Not one of those that are compared at each call."""
    model.key.weight[0, 1] += 1.0


def _through_data(model: Any) -> None:
    model.key.weight.data.mul_(2)


def _new_storage(model: Any) -> None:
    model.layer.weight.data = model.layer.weight.data * 2


def _replaced(model: Any) -> None:
    model.layer.weight = nn.Parameter(model.layer.weight * 2)


def _mask_opened(model: Any) -> None:
    model.mask[0, 3] = True


def _guard_without(condition: str, instead: str) -> Callable[..., Any]:
    """Leaves a condition out of the source of the guard."""

    def write(original: Any, graph: Graph, assumptions: Any) -> tuple[str, dict[str, object]]:
        source, constants = original(graph, assumptions)
        assert condition in source, source
        return source.replace(condition, instead), constants

    return write


def _unseen(change: str) -> Callable[..., str]:
    """Does not report changes whose description holds these words."""

    def reported(original: Any, self: ModelState) -> str:
        found: str = original(self)
        return "" if change in found else found

    return reported


def _numbers_forgotten(
    original: Any, name: str, value: Any, default: Any, tensors: list[Tensor], structure: list[Any]
) -> None:
    if not isinstance(value, int | float):
        original(name, value, default, tensors, structure)


def _mode_is(attribute: str) -> Callable[..., bool]:
    """Takes one part of the mode to be what it was."""

    def same(original: Any, self: ModelState) -> bool:
        held = getattr(self, attribute)
        now = self._autocast_now() if attribute == "_autocast" else [m.training for m in self._modules]
        setattr(self, attribute, now)
        try:
            answer: bool = original(self)
            return answer
        finally:
            setattr(self, attribute, held)

    return same


def _gradients_ignored(original: Any, self: CompiledCall, tensors: list[Tensor]) -> Any:
    with torch.no_grad():
        return original(self, tensors)


def _buffers_known(original: Any, self: KnownValues, node: Node) -> bool:
    return node.op == "get_attr" or original(self, node)


REPLACED = Scenario("a parameter is replaced", Alone, _changed(_replaced))

CALLS = (
    Mutant(
        "sizes not guarded",
        "a graph for four rows answers a call with three",
        Fault(guards, "_write_guard", _guard_without("x0_0 == 4 and ", "")),
        Scenario("another number of rows", Mean, _other_shape),
    ),
    Mutant(
        "dtype not guarded",
        "a graph for float32 answers a call with float64",
        Fault(guards, "_write_guard", _guard_without("t.dtype is not dtype0 or ", "")),
        Scenario("another dtype", Lowest, _other_dtype),
    ),
    Mutant(
        "numbers not guarded",
        "a graph made for one number answers a call with another",
        Fault(calls, "_flatten_one", _numbers_forgotten),
        Scenario("another number", Power, _other_number),
    ),
    Mutant(
        "training mode not guarded",
        "a graph of the model in eval mode answers in training mode",
        Fault(ModelState, "same_mode", _mode_is("_training")),
        Scenario("to training mode", Switch, _changed(lambda model: model.train(not model.training))),
    ),
    Mutant(
        "autocast not guarded",
        "a graph made without autocast answers a call under it",
        Fault(ModelState, "same_mode", _mode_is("_autocast")),
        Scenario("a call under autocast", Alone, _autocast),
    ),
    Mutant(
        "gradients not refused",
        "a call whose input requires grad is answered without one",
        Fault(CompiledCall, "__call__", _gradients_ignored),
        Scenario("an input that requires grad", Power, _gradient, refused=1),
    ),
    Mutant(
        "overlapping inputs not refused",
        "a model that writes to one input gets two that share memory",
        Fault(compiled_call, "_overlap", always(False)),
        Scenario("inputs that share memory", SUMS.model, _overlapping, refused=1),
    ),
    Mutant(
        "versions of weights not compared",
        "an in-place change of a weight that was copied is not seen",
        Fault(guards, "versions", always([])),
        Scenario("one element of a folded weight changes", Scaled, _changed(_one_element)),
    ),
    Mutant(
        "values of weights not compared",
        "a write through .data to a weight that was copied is not seen",
        Fault(guards, "_sample_view", always(None)),
        Scenario("a folded weight changes through .data", Scaled, _changed(_through_data)),
    ),
    Mutant(
        "sources of constants forgotten",
        "a constant does not remember which weights it was made from",
        Fault(ConstantStore, "origins", always(frozenset())),
        Scenario("a folded weight changes in place", Scaled, _changed(lambda model: model.key.weight.mul_(2))),
    ),
    Mutant(
        "what was looked at forgotten",
        "a mask that was proven to be causal may change unseen",
        Fault(ConstantStore, "observe", always(None)),
        Scenario("a causal mask is opened", Masked, _changed(_mask_opened)),
    ),
    Mutant(
        "replaced weights not seen",
        "a parameter that was replaced is still read",
        Fault(ModelState, "change", _unseen("was replaced")),
        REPLACED,
    ),
    Mutant(
        "everything is unchanged",
        "the quick check of a model sees nothing, and nobody looks closer",
        Fault(guards, "unchanged_check", always(lambda: True)),
        REPLACED,
    ),
    Mutant(
        "new storage not seen",
        "a parameter with new storage is read in its old one",
        Fault(ModelState, "change", _unseen("got new storage")),
        Scenario("a parameter gets new storage", Alone, _changed(_new_storage)),
    ),
    Mutant(
        "a buffer that is written to is folded",
        "its value at compile time is taken for a constant",
        Fault(KnownValues, "_is_known", _buffers_known),
        Scenario("three calls that are counted", Steps, _three_calls),
    ),
    Mutant(
        "conditions on sizes forgotten",
        "a graph answers for sizes that take another branch",
        Fault(guards, "conditions_on_sizes", always(())),
        Scenario("a branch on an even number of rows", Even, _rows),
    ),
    Mutant(
        "other shapes not seen",
        "a weight that is transposed in its memory is read as it was",
        Fault(ModelState, "change", _unseen("got another shape")),
        Scenario("a weight is transposed in place", Alone, _changed(lambda model: model.layer.weight.t_())),
    ),
    Mutant(
        "dropout not refused",
        "random numbers are not seen in the captured graph",
        Fault(export, "is_random", always(False)),
        Scenario("a model in training mode with dropout", Dropout, lambda twins: twins.compile(x=X), refused=1),
    ),
)
