"""Choose, by measurement on this machine, what computes the float32 linears on a CPU.

before:  linear(x, w, b), txgraph::linear_activation(x, w, b, act) or txgraph::linears(x, [w, ...], [b, ...])
after:   txgraph::linears_native(x, [w, ...], [b, ...], act) where our own kernel is faster than torch's linear;
         txgraph::linear_onednn(x, w, b, act) for each where oneDNN is;
         txgraph::sparse_linears_native(x, [w's numbers that are not zero, ...], [b, ...], act) where w is mostly zeros,
         and leaving them out is faster;
         an operator of the backend's for each where code that it generates for that shape is;
         linear(x, w, b) for each where torch's is
why:     torch's linear calls MKL, which is the slower GEMM on some processors by a factor of two.
         All but the sparse one take the model's own weights (no packed copy); all but torch's compute the activation
         on the way.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch._ops import OpOverload
from torch.fx import Node

from txgraph.backends.calls.fastest import fastest
from txgraph.backends.calls.linears import put
from txgraph.backends.calls.onednn import onednn_linear
from txgraph.backends.calls.sparse import PackedWeights, Zeros, describe_weights
from txgraph.backends.kernels.build import load
from txgraph.backends.kernels.linear import ACTIVATIONS as NATIVE_ACTIVATIONS
from txgraph.backends.kernels.linear import linears_native
from txgraph.backends.kernels.sparse_linear import sparse_linears_native
from txgraph.ir import Graph, GraphBuilder, type_of
from txgraph.ir.activations import activate
from txgraph.ir.linears import Linears, stored_in
from txgraph.ir.ops import ACTIVATIONS, define, linear_activation
from txgraph.progress import track

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
GENERATED = "generated"  # the name of a backend's own way
MEASURED_SECONDS = 0.1  # per distinct shape
PIECE, MOST_PIECES = 1 << 20, 16  # numbers of other weights that are read at a time, and how many such pieces
PIECES_BETWEEN = 2  # runs; reading them all would put the program itself out of the cache, too


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


@dataclass(frozen=True)
class GemmShape:
    """Linears of one input: ``[m, k] @ [n, k].T`` for each ``n``, with their activation (empty: none).

    Attributes:
        zeros: of their weights, where these are many.
    """

    m: int
    k: int
    n: tuple[int, ...]
    activation: str
    bias: bool
    zeros: Zeros | None = None

    def __str__(self) -> str:
        n = "+".join(map(str, self.n))
        activation = f" + {self.activation}" if self.activation else ""
        return f"linear {self.m}x{self.k}x{n}{activation}" + (f", {self.zeros}" if self.zeros else "")


@dataclass(frozen=True)
class Way:
    """One way to compute linears.

    Attributes:
        operator: of one of them, or of all ``together``. fused: the activations that it computes on the way.
    """

    operator: OpOverload
    fused: frozenset[str] = frozenset()
    together: bool = False


@dataclass(frozen=True)
class Generated:
    """Code that a backend generates for linears of one shape.

    Attributes:
        operator: of one of them, ``f(input, weight as it is stored, bias, activation, *rest)``. rest: as nodes take it.
        run: ``f(input, weight [N, K], bias)`` does what the operator will, on this machine.
    """

    operator: OpOverload
    rest: tuple[object, ...]
    run: Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]


Generator = Callable[[GemmShape, bool], Generated | None]
"""Of linears of one shape, by whether their weights are stored as ``[K, N]``."""

WAYS = {
    "aten": Way(torch.ops.aten.linear.default),
    "txgraph": Way(torch.ops.txgraph.linears_native.default, frozenset(NATIVE_ACTIVATIONS), together=True),
    "oneDNN": Way(torch.ops.txgraph.linear_onednn.default, frozenset(_ONEDNN_ACTIVATIONS)),
    "sparse": Way(torch.ops.txgraph.sparse_linears_native.default, frozenset(NATIVE_ACTIVATIONS), together=True),
}


def fused_activations() -> frozenset[str]:
    """Activations that some way computes inside a linear."""
    ways = WAYS.keys() - ({"oneDNN"} if onednn_linear() is None else set())
    return frozenset().union(*(WAYS[name].fused for name in ways)) - {""}


def choose_gemms(graph: Graph, remembers: bool = False, generator: Generator | None = None) -> dict[str, str]:
    """Rewrite each linear of ``graph`` to what measures faster here; returns the choices, for the report.

    Args:
        remembers: what was measured for another model counts. generator: of one more way, a backend's own.
    """
    found: dict[GemmShape, list[Node]] = {}
    for node in graph.calls():
        shape = _shape_of(node, graph)
        if shape is not None:
            found.setdefault(shape, []).append(node)
    report: dict[str, str] = {}
    packed = PackedWeights(graph)
    for shape, nodes in track(found.items(), "measure linears", lambda item: str(item[0]), timed=True):
        generated = (
            generator(shape, columns) if generator and (columns := _lie_by_columns(graph, nodes)) is not None else None
        )
        name, report[str(shape)] = _measure(shape, graph, nodes, remembers, packed, generated)
        if shape.zeros:
            report[str(shape)] += f"; not zero: {describe_weights(graph, nodes)}"
        for node in nodes if name != "aten" or len(shape.n) > 1 else ():
            if generated is not None and name == GENERATED:
                _replace_by(generated, graph, node)
            else:
                _replace(graph, node, WAYS[name], shape.zeros if name == "sparse" else None, packed)
        packed.release()
    return report


def _shape_of(node: Node, graph: Graph) -> GemmShape | None:
    """The shape of float32 linears on a CPU with constant weights; ``None`` for any other node."""
    linears = Linears.of(node)
    source = None if linears is None else type_of(linears.input)
    if linears is None or source is None or source.dtype is not torch.float32:
        return None
    weights = [_constant_weight(graph, weight) for weight in linears.weights]
    if not all(w is not None and w.dtype is torch.float32 and w.device.type == "cpu" and w.ndim == 2 for w in weights):
        return None
    rows = 1
    for size in source.shape[:-1]:
        hint = size if isinstance(size, int) else size.node.hint
        rows *= int(hint)
    if rows == 0:
        return None
    widths = tuple(w.shape[0] for w in weights if w is not None)
    bias, frozen = any(b is not None for b in linears.biases), linears.frozen_weights(graph)
    zeros = None if frozen is None else Zeros.of(frozen)
    return GemmShape(rows, int(source.shape[-1]), widths, linears.activation, bias, zeros)


def _constant_weight(graph: Graph, value: object) -> torch.Tensor | None:
    """The weight ``[N, K]`` if it is a constant or the transpose of one (as GPT-2 stores it): a view, no copy."""
    if isinstance(value, Node) and value.target is torch.ops.aten.transpose.int:
        stored = graph.constant(value.args[0])
        return stored.t() if stored is not None and stored.ndim == 2 else None
    return graph.constant(value)


def _lie_by_columns(graph: Graph, nodes: Sequence[Node]) -> bool | None:
    """Whether all weights are stored as ``[K, N]``; ``None``: some are, or lie in another way."""
    weights = [weight for node in nodes for weight in _operands(graph, node)[0]]
    if all(weight.is_contiguous() for weight in weights):
        return False
    return True if all(weight.t().is_contiguous() for weight in weights) else None


def _measure(
    shape: GemmShape,
    graph: Graph,
    nodes: Sequence[Node],
    remembers: bool,
    packed: PackedWeights,
    generated: Generated | None,
) -> tuple[str, str]:
    """Time each way on random input with the real weights; torch's own stays unless another is faster.

    As in a call of the model, each run takes the next weights of that shape, and before it other weights are read: what
    stays in the cache from one layer to the next is its input.
    """
    operands = [_operands(graph, node) for node in nodes]
    weights = [weight for each, _ in operands for weight in each]
    as_it_is = _lie_by_columns(graph, nodes) is not None
    turns = itertools.cycle(operands)
    x = torch.randn(shape.m, shape.k)
    activation = ACTIVATIONS.get(shape.activation, torch.Tensor.contiguous)

    def each(linear: Callable[..., object]) -> Callable[[], object]:
        return lambda: [linear(x, weight, bias) for weight, bias in zip(*next(turns), strict=True)]

    ways: dict[str, Callable[[], object]] = {"aten": each(lambda *operands: activation(F.linear(*operands)))}
    if onednn_linear() is not None:
        inside = shape.activation if shape.activation in WAYS["oneDNN"].fused else ""
        after = torch.Tensor.contiguous if inside == shape.activation else activation
        ways["oneDNN"] = each(lambda x, weight, bias: after(_linear_onednn(x, weight, bias, inside)))
    if as_it_is and shape.activation in NATIVE_ACTIVATIONS:
        ways["txgraph"] = lambda: linears_native(x, *next(turns), shape.activation)
    if shape.zeros is not None:
        load("sparse")
        ways["sparse"] = _sparse_way(shape, graph, nodes, x, packed)
    if generated is not None:
        ways[GENERATED] = each(generated.run)
    others = itertools.cycle(_pieces(graph.constants.values()) or [x])

    def read_others() -> None:
        for tensor in (*itertools.islice(others, PIECES_BETWEEN), x):
            tensor.sum()

    bytes_read = sum(weight.nbytes for weight in weights), sum(tensor.nbytes for tensor in graph.constants.values())
    about = f"{shape!r}, strides {[*weights[0].stride()]}, {bytes_read} bytes"
    about += f", {GENERATED}" if generated is not None else ""
    compared = {"compared": "sparse"} if shape.zeros else {}
    return fastest(ways, MEASURED_SECONDS, about if remembers else "", read_others, **compared)


def _sparse_way(
    shape: GemmShape, graph: Graph, nodes: Sequence[Node], x: torch.Tensor, packed: PackedWeights
) -> Callable[[], object]:
    zeros = shape.zeros
    assert zeros is not None, "it is a way where there are zeros"
    inside = shape.activation if shape.activation in NATIVE_ACTIVATIONS else ""
    after = torch.Tensor.contiguous if inside == shape.activation else ACTIVATIONS[shape.activation]
    operands = []
    for node in nodes:
        linears = Linears.of(node)
        assert linears is not None, "_shape_of: linears"
        held = [packed.tensor(weight, zeros) for weight in linears.weights]
        operands.append((held, [graph.constant(bias) for bias in linears.biases]))
    turns = itertools.cycle(operands)
    return lambda: [after(y) for y in sparse_linears_native(x, *next(turns), inside, shape.n, zeros.block)]


def _pieces(tensors: Iterable[torch.Tensor]) -> list[torch.Tensor]:
    """Pieces of what is large, together more than a cache holds if there is so much."""
    large = [t.view(-1) for t in tensors if t.is_contiguous() and t.nbytes >= PIECE * t.itemsize]
    pieces = (piece for tensor in large for piece in tensor.split(PIECE) if len(piece) == PIECE)
    return list(itertools.islice(pieces, MOST_PIECES))


def _operands(graph: Graph, node: Node) -> tuple[list[torch.Tensor], list[torch.Tensor | None]]:
    linears = Linears.of(node)
    assert linears is not None, "_shape_of: linears"
    weights = [_constant_weight(graph, weight) for weight in linears.weights]
    return [w for w in weights if w is not None], [graph.constant(bias) for bias in linears.biases]


def _replace(graph: Graph, node: Node, way: Way, zeros: Zeros | None, packed: PackedWeights) -> None:
    """Compute a node's linears in one way; each that has no operator for all at once has one for each.

    Args:
        zeros: of the weights, where the way is to leave them out.
    """
    linears = Linears.of(node)
    assert linears is not None, "_shape_of: linears"
    builder = GraphBuilder(graph, node)
    inside = linears.activation if linears.activation in way.fused else ""
    rest: list[object] = [inside] if way.fused else []
    if way.together:
        weights: Sequence[Node] = linears.weights
        if zeros is not None:
            rest += [[int(weight.meta["val"].shape[0]) for weight in weights], zeros.block]
            weights = [packed.node(builder, weight, zeros) for weight in weights]
        results = builder.call(way.operator, linears.input, weights, linears.biases, *rest)
        values = [builder.call(operator.getitem, results, at) for at in range(len(linears.weights))]
    else:
        each = zip(linears.weights, linears.biases, strict=True)
        values = [builder.call(way.operator, linears.input, weight, bias, *rest) for weight, bias in each]
    if linears.activation != inside:
        values = [activate(builder, value, linears.activation) for value in values]
    put(graph, node, values)


def _replace_by(generated: Generated, graph: Graph, node: Node) -> None:
    """Compute each of a node's linears by generated code."""
    linears = Linears.of(node)
    assert linears is not None, "_shape_of: linears"
    builder = GraphBuilder(graph, node)
    each = zip(linears.weights, linears.biases, strict=True)
    rest = linears.activation, *generated.rest
    operator = generated.operator
    put(graph, node, [builder.call(operator, linears.input, stored_in(weight), bias, *rest) for weight, bias in each])
