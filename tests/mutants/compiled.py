"""Faults before and after the passes: in the capture, and in the backends."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.fx import Node

from tests.mutants.edits import always, given, numbers
from tests.mutants.graphs import RUNNING
from tests.mutants.mutant import Fault, Inputs, Mutant, Probe, Scenario, Twins
from txgraph.backends import Compiled
from txgraph.backends.calls import linears
from txgraph.backends.inductor import lower
from txgraph.backends.inductor.program import Program
from txgraph.backends.reference import ReferenceBackend
from txgraph.capture import export
from txgraph.compiled_call import CompiledCall
from txgraph.ir import Graph, GraphBuilder
from txgraph.passes.canonicalize import remove_identities

Tensor = torch.Tensor

# -- capture -------------------------------------------------------------------------------------------------------


class Views(nn.Module):
    """Two buffers on the same memory, one the transpose of the other."""

    def __init__(self) -> None:
        super().__init__()
        (table,) = numbers((8, 8))
        self.register_buffer("table", table)
        self.register_buffer("turned", table.t())

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.table + torch.sin(x @ self.turned)


class Sums(nn.Module):
    """Adds to a buffer that the output does not depend on, and to its input."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(8))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        self.total.add_(x.sum(0))
        x.add_(y)
        return x * y


def _inputs() -> Inputs:
    return dict(zip("xy", numbers((4, 8), (4, 8)), strict=True))


class CountsUnseen(nn.Module):
    """Counts its calls in a buffer that no output shows."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.calls.add_(1)
        return torch.sin(x)


class Exchanges(nn.Module):
    """Two buffers that change places with each call."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("back", torch.ones(8))
        self.register_buffer("front", torch.zeros(8))

    def forward(self, x: Tensor) -> Tensor:
        held = self.front.clone()
        self.front.copy_(self.back)
        self.back.copy_(held)
        return x + self.front


class GivesAWeight(nn.Module):
    """Returns a copy of its weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(numbers((8,))[0])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.weight.clone(), torch.sin(x)


def _two_calls_of_one(twins: Twins) -> None:
    x = _inputs()["x"]
    twins.call(x=x)
    twins.call(x=x)


def _two_calls(twins: Twins) -> None:
    twins.call(**_inputs())
    twins.call(**_inputs())


VIEWS = Probe("a buffer and its transpose", Views, lambda: {"x": numbers((4, 8))[0]})
COUNTS = Probe("a buffer that no output shows", CountsUnseen, lambda: {"x": _inputs()["x"]})
WEIGHT = Probe("an output that is a copy of a weight", GivesAWeight, lambda: {"x": _inputs()["x"]})
EXCHANGE = Scenario("two buffers change places", Exchanges, _two_calls_of_one)
SUMS = Scenario("a model that writes to its input and a buffer", Sums, _two_calls)


def _write_forgotten(original: Any, fx: torch.fx.Graph, specs: Any, names: Any) -> tuple[Any, ...]:
    written = original(fx, specs, names)
    output = fx.output_node()
    output.args = (tuple(output.args[0][len(written) :]),)  # type: ignore[index, arg-type]  # a tuple
    return ()


def _one_after_the_other(original: Any, self: CompiledCall, tensors: list[Tensor], taken: list[Tensor]) -> Any:
    outputs = self.compiled.run(taken)
    for mutation, value in zip(self.after.mutations, outputs, strict=False):
        self.after.constants[mutation.target].copy_(value)
    return outputs


def _inputs_left_alone(original: Any, self: CompiledCall, tensors: list[Tensor]) -> Any:
    return original(self, [tensor.clone() for tensor in tensors])


def _buffers_left_alone(original: Any, self: CompiledCall, tensors: list[Tensor]) -> Any:
    buffers = [self.after.constants[m.target] for m in self.after.mutations if m.kind == "buffer"]
    values = [buffer.clone() for buffer in buffers]
    result = original(self, tensors)
    for buffer, value in zip(buffers, values, strict=True):
        buffer.copy_(value)
    return result


CAPTURE = (
    Mutant(
        "views of one memory taken for tied weights",
        "two constants at the same address are one, whatever their strides",
        Fault(export, "_key", lambda original, tensor: (tensor.data_ptr(),)),
        VIEWS,
    ),
    Mutant(
        "write not captured",
        "the new value of a buffer is no output of the graph",
        Fault(export, "_lift_mutations", _write_forgotten),
        RUNNING,
    ),
    Mutant(
        "write not captured that no output shows",
        "the new value of a buffer is no output of the graph, and nothing else depends on it",
        Fault(export, "_lift_mutations", _write_forgotten),
        COUNTS,
    ),
    Mutant(
        "output that is the weight itself",
        "the copy of a weight that is returned is left out",
        Fault(remove_identities, "copy_is_needed", always(False)),
        WEIGHT,
    ),
    Mutant(
        "buffers written one after the other",
        "a buffer is written before its old value was read for another",
        Fault(CompiledCall, "_write", _one_after_the_other),
        EXCHANGE,
    ),
    Mutant(
        "write to an input lost",
        "the new value of an input is not copied back",
        Fault(CompiledCall, "__call__", _inputs_left_alone),
        SUMS,
    ),
    Mutant(
        "write to a buffer lost",
        "the new value of a buffer is not copied back",
        Fault(CompiledCall, "__call__", _buffers_left_alone),
        SUMS,
    ),
)

# -- backends ------------------------------------------------------------------------------------------------------


class FeedForward(nn.Module):
    """Two linears of the same size, with a GELU between them."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.up, self.down = nn.Linear(8, 8, dtype=dtype), nn.Linear(8, 8, dtype=dtype)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.down(F.gelu(self.up(x)))
        return result


def _in_place_change(twins: Twins) -> None:
    x = _inputs()["x"]
    twins.call(x=x)
    twins.change(lambda model: model.up.weight.mul_(2))  # type: ignore[operator, union-attr]  # a linear
    twins.call(x=x)


# oneDNN, which may be chosen for linears by measurement, is for float32 only: in float64 nothing is measured.
WIDE = Probe(
    "feed-forward in float64, compiled",
    lambda: FeedForward(torch.float64),
    lambda: {"x": _inputs()["x"].double()},
    backend="inductor",
)
READ_WEIGHT = Scenario("a weight that is only read changes", lambda: FeedForward(torch.float32), _in_place_change)


def _first_two_swapped(original: Any, self: Program, *rest: Any) -> None:
    """Of the constants with two axes."""
    original(self, *rest)
    first, other, *_ = (at for at, weight in enumerate(self._weights) if weight.ndim == 2)
    self._weights[first], self._weights[other] = self._weights[other], self._weights[first]


def _weights_transposed(original: Any, graph: Graph, *others: Any) -> dict[str, str]:
    choices: dict[str, str] = original(graph, *others)
    for node in graph.calls():
        if node.target is torch.ops.txgraph.linear_activation.default:
            given(node, weight=GraphBuilder(graph, node).aten.transpose.int(node.args[1], 0, 1))
    return choices


class Biased(nn.Module):
    """Attention with a bias on its scores."""

    def __init__(self) -> None:
        super().__init__()
        (bias,) = numbers((6, 6))
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(x, x, x, self.bias)


ATTENTION = Probe(
    "attention with a bias, compiled", Biased, lambda: {"x": numbers((2, 3, 6, 8))[0]}, backend="inductor"
)


def _bias_forgotten(original: Any, graph: Graph, *others: Any) -> dict[str, str]:
    for node in graph.calls():
        if node.target is torch.ops.aten.scaled_dot_product_attention.default:
            given(node, attn_mask=None)
    choices: dict[str, str] = original(graph, *others)
    return choices


def _other_gelu(original: Any, builder: GraphBuilder, value: Node, name: str) -> Node:
    node: Node = original(builder, value, "gelu_tanh")
    return node


def _weights_copied(original: Any, self: ReferenceBackend, graph: Graph, *rest: Any) -> Compiled:
    tensors = {name: tensor.clone() for name, tensor in graph.constants.items()}
    constants = dataclasses.replace(graph.constants, tensors=tensors)
    compiled: Compiled = original(self, dataclasses.replace(graph, constants=constants), *rest)
    return compiled


def _doubled(original: Any, self: ReferenceBackend, *rest: Any) -> Compiled:
    compiled: Compiled = original(self, *rest)
    return dataclasses.replace(compiled, run=lambda tensors: [2 * value for value in compiled.run(tensors)])


class Sine(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(x)


BACKENDS = (
    Mutant(
        "constants in the wrong order",
        "Inductor's code gets two weights in each other's places",
        Fault(Program, "__init__", _first_two_swapped),
        WIDE,
    ),
    Mutant(
        "activation left out",
        "a linear with an activation is lowered as a linear alone",
        Fault(linears, "activate", lambda original, builder, value, name: value),
        WIDE,
    ),
    Mutant(
        "another activation",
        "gelu is lowered as its tanh approximation",
        Fault(linears, "activate", _other_gelu),
        WIDE,
    ),
    Mutant(
        "GEMM with a transposed weight",
        "a product is lowered with its weight [K, N] for [N, K], where K = N",
        Fault(lower, "choose_gemms", _weights_transposed),
        WIDE,
    ),
    Mutant(
        "attention lowered without its bias",
        "whichever kernel is chosen for an attention, it gets no mask",
        Fault(lower, "choose_attention", _bias_forgotten),
        ATTENTION,
    ),
    Mutant(
        "every output doubled",
        "the reference backend itself is wrong, which is what others fall back to",
        Fault(ReferenceBackend, "lower", _doubled),
        Probe("a sine", Sine, lambda: {"x": _inputs()["x"]}),
    ),
    Mutant(
        "weights copied",
        "the reference backend keeps its own copy of the weights",
        Fault(ReferenceBackend, "lower", _weights_copied),
        READ_WEIGHT,
    ),
)
