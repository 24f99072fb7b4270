"""Choose, by measurement on this machine, what computes each float32 linear on a CPU.

before:  linear(x, w, b), or txgraph::linear_activation(x, w, b, act)
after:   txgraph::linear_native(x, w, b, act) where our own kernel is faster than torch's linear;
         txgraph::linear_onednn(x, w, b, act) where oneDNN is;
         txgraph::linear_generated(x, w, b) and act, where x is one row and code that Inductor generates is
why:     torch's linear calls MKL, which is the slower GEMM on some processors by a factor of two.
         All take the model's own weight (no packed copy); the first two compute the activation on the way.
         Of one row, as in a step of a decoder, the product reads the weight once: the libraries read it slower.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch.fx import Node
from torch.fx.experimental.proxy_tensor import make_fx

from txgraph.backends.inductor.adapter import compile_graph, generate_row_product, onednn_linear
from txgraph.backends.inductor.fastest import fastest
from txgraph.backends.kernels.linear import ACTIVATIONS as NATIVE_ACTIVATIONS
from txgraph.backends.kernels.linear import linear_native
from txgraph.ir import Graph, GraphBuilder, arguments, type_of
from txgraph.ir.ops import ACTIVATIONS, define, linear_activation

# txgraph's activation names in oneDNN's words: (attribute, algorithm)
_ONEDNN_ACTIVATIONS = {
    "": ("none", ""),
    "relu": ("relu", ""),
    "gelu": ("gelu", "none"),
    "gelu_tanh": ("gelu", "tanh"),
    "silu": ("swish", ""),
    "tanh": ("tanh", ""),
    "sigmoid": ("sigmoid", ""),
}
MEASURED_SECONDS = 0.2  # upper bound per distinct shape
WORTH_COMPILING = 16 << 20  # bytes of weights from which a product of one row is compiled, for seconds, to be timed


def _linear_onednn(
    input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, activation: str
) -> torch.Tensor:
    if _kernel is None:  # this torch has no oneDNN: the operator is never chosen, but keeps its meaning
        return linear_activation(input, weight, bias, activation) if activation else F.linear(input, weight, bias)
    attribute, algorithm = _ONEDNN_ACTIVATIONS[activation]
    return _kernel(input, weight, bias, attribute, [], algorithm)


_kernel = onednn_linear()
define(
    "linear_onednn(Tensor input, Tensor weight, Tensor? bias, str activation) -> Tensor",
    _linear_onednn,
    lambda input, weight, *_: input.new_empty((*input.shape[:-1], weight.shape[0])),
    key="CPU",
)


define(
    "linear_generated(Tensor input, Tensor weight, Tensor? bias) -> Tensor",
    F.linear,
    lambda input, weight, *_: input.new_empty((*input.shape[:-1], weight.shape[0])),
    key="CPU",
)


@functools.cache
def _teach_inductor() -> None:
    generate_row_product(torch.ops.txgraph.linear_generated.default)


@dataclass(frozen=True)
class GemmShape:
    """One linear: ``[m, k] @ [n, k].T``, with its activation (empty: none)."""

    m: int
    k: int
    n: int
    activation: str
    bias: bool

    def __str__(self) -> str:
        return f"linear {self.m}x{self.k}x{self.n}" + (f" + {self.activation}" if self.activation else "")


@dataclass(frozen=True)
class Way:
    """One way to compute a linear.

    Attributes:
        operator: its name in ``txgraph::``. fused: the activations that it computes on the way.
    """

    operator: str
    fused: frozenset[str]


WAYS = {
    "txgraph": Way("linear_native", frozenset(NATIVE_ACTIVATIONS)),
    "oneDNN": Way("linear_onednn", frozenset(_ONEDNN_ACTIVATIONS)),
    "Inductor": Way("linear_generated", frozenset([""])),
}


def fused_activations() -> frozenset[str]:
    """Activations that some way computes inside a linear."""
    ways = WAYS.keys() - ({"oneDNN"} if onednn_linear() is None else set())
    return frozenset().union(*(WAYS[name].fused for name in ways)) - {""}


def choose_gemms(graph: Graph, remembers: bool = False) -> dict[str, str]:
    """Rewrite each linear of ``graph`` to what measures faster here; returns the choices, for the report.

    Args:
        remembers: what was measured for another model counts.
    """
    linears: dict[GemmShape, list[Node]] = {}
    for node in graph.calls():
        shape = _shape_of(node, graph)
        if shape is not None:
            linears.setdefault(shape, []).append(node)
    report = {}
    for shape, nodes in linears.items():
        name, report[str(shape)] = _measure(shape, graph, nodes, remembers)
        if name == "Inductor":
            _teach_inductor()
        for node in nodes if name in WAYS else ():
            _replace(graph, node, shape.activation, WAYS[name])
    return report


def _shape_of(node: Node, graph: Graph) -> GemmShape | None:
    """The shape of a float32 CPU linear with a constant weight; ``None`` for any other node."""
    if node.target not in (torch.ops.aten.linear.default, torch.ops.txgraph.linear_activation.default):
        return None
    named = arguments(node)
    weight, source = _constant_weight(graph, named["weight"]), type_of(named["input"])
    if weight is None or source is None or weight.dtype is not torch.float32 or weight.device.type != "cpu":
        return None
    if source.dtype is not torch.float32 or weight.ndim != 2:
        return None
    rows = 1
    for size in source.shape[:-1]:
        hint = size if isinstance(size, int) else size.node.hint
        rows *= int(hint)
    if rows == 0:
        return None
    return GemmShape(rows, weight.shape[1], weight.shape[0], named.get("activation") or "", named["bias"] is not None)


def _constant_weight(graph: Graph, value: object) -> torch.Tensor | None:
    """The weight ``[N, K]`` if it is a constant or the transpose of one (as GPT-2 stores it): a view, no copy."""
    if isinstance(value, Node) and value.target is torch.ops.aten.transpose.int:
        stored = graph.constant(value.args[0])
        return stored.t() if stored is not None and stored.ndim == 2 else None
    return graph.constant(value)


def _measure(shape: GemmShape, graph: Graph, nodes: Sequence[Node], remembers: bool) -> tuple[str, str]:
    """Time each way on random input with the real weights; torch's own stays unless another is faster.

    Each run takes the next weight of that shape: a weight that stays in the cache is not what a model sees.
    """
    named = [arguments(node) for node in nodes]
    weights = [_weight(graph, each["weight"]) for each in named]
    in_rows = all(weight.is_contiguous() for weight in weights)
    as_it_is = in_rows or all(weight.t().is_contiguous() for weight in weights)
    operands = itertools.cycle([(w, graph.constant(each["bias"])) for w, each in zip(weights, named, strict=True)])
    x = torch.randn(shape.m, shape.k)
    activation = ACTIVATIONS.get(shape.activation, torch.Tensor.contiguous)
    ways: dict[str, Callable[[], object]] = {"aten": lambda: activation(F.linear(x, *next(operands)))}
    if onednn_linear() is not None:
        inside = shape.activation if shape.activation in WAYS["oneDNN"].fused else ""
        after = torch.Tensor.contiguous if inside == shape.activation else activation
        ways["oneDNN"] = lambda: after(_linear_onednn(x, *next(operands), inside))
    if as_it_is and shape.activation in NATIVE_ACTIVATIONS:
        ways["txgraph"] = lambda: linear_native(x, *next(operands), shape.activation)
    if in_rows and shape.m == 1 and shape.n * shape.k * 4 * len(nodes) >= WORTH_COMPILING:
        ways["Inductor"] = lambda: row_product()(x, next(operands)[0])
    bytes_read = sum(weight.nbytes for weight in weights)  # what stays in the cache is read faster
    about = f"{shape!r}, strides {[*weights[0].stride()]}, {bytes_read} bytes"
    return fastest(ways, MEASURED_SECONDS, about if remembers else "")


@functools.cache
def row_product() -> Callable[[torch.Tensor, torch.Tensor], object]:
    """The product of one row, compiled for any size: to be timed; in a graph it is compiled with what surrounds it."""
    _teach_inductor()
    operator = torch.ops.txgraph.linear_generated
    inputs = torch.ones(1, 48), torch.ones(32, 48)
    made = make_fx(lambda x, weight: (operator(x, weight, None),), tracing_mode="symbolic")(*inputs)
    examples = [n.meta["val"] for n in made.graph.nodes if n.op == "placeholder"]
    return compile_graph(made, examples, {})[0]


def _weight(graph: Graph, value: object) -> torch.Tensor:
    weight = _constant_weight(graph, value)
    assert weight is not None, "_shape_of: constant weight"
    return weight


def _replace(graph: Graph, node: Node, activation: str, way: Way) -> None:
    named = arguments(node)
    builder = GraphBuilder(graph, node)
    operands = (named["input"], named["weight"], named["bias"])
    inside = activation if activation in way.fused else ""
    new = getattr(builder.txgraph, way.operator)(*operands, *([inside] if way.fused > {""} else []))
    if activation != inside:
        new = activate(builder, new, activation)
    node.replace_all_uses_with(new)
    graph.fx.erase_node(node)


def activate(builder: GraphBuilder, value: Node, name: str) -> Node:
    """An activation of ``ir.ops.ACTIVATIONS``, as an ATen operator."""
    assert name in ACTIVATIONS, "checked by the operator's own definition"
    if name == "quick_gelu":
        return builder.aten.mul(value, builder.aten.sigmoid(builder.aten.mul(value, 1.702)))
    if name.startswith("gelu"):
        return builder.aten.gelu(value, approximate="tanh" if name == "gelu_tanh" else "none")
    result: Node = getattr(builder.aten, name)(value)
    return result
