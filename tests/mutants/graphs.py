"""Faults in normal forms, views, folding, moving, and in what a pass owes to the pipeline."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.fx import Node

import txgraph
from tests.mutants.edits import after, always, given, numbers, parameters
from tests.mutants.mutant import Fault, Inputs, Mutant, Probe
from tests.small import Encoder, find, module
from txgraph.ir import Graph, GraphBuilder, type_of
from txgraph.passes.canonicalize import (
    normalize_arithmetic,
    normalize_matmul,
    normalize_views,
    remove_empty_pieces,
    remove_identities,
)
from txgraph.passes.canonicalize.normalize_arithmetic import NormalizeArithmetic
from txgraph.passes.canonicalize.remove_identities import RemoveIdentities
from txgraph.passes.canonicalize.remove_pointless_views import RemovePointlessViews
from txgraph.passes.fold import eliminate_common_subexpressions, fold_constants
from txgraph.passes.fold.eliminate_dead_code import EliminateDeadCode
from txgraph.passes.fuse.fuse_silu import FuseSilu
from txgraph.passes.layout import move_selections_up
from txgraph.rewrite import Accept, Match, Pass, PassContext, Reject, Rewrite

Tensor = torch.Tensor
_aten = torch.ops.aten
_CUBE = (4, 4, 4)


def _probe(name: str, function: Callable[..., Any], *inputs: Tensor) -> Probe:
    """A function of x, and of a and b, where they are given."""
    return Probe(name, lambda: module(function), lambda: dict(zip("xab", (t.clone() for t in inputs), strict=False)))


def _normal(*shapes: tuple[int, ...]) -> list[Tensor]:
    return numbers(*shapes)


# -- normal forms --------------------------------------------------------------------------------------------------


def _zeros_for_product(original: Any, self: NormalizeArithmetic, node: Node, g: GraphBuilder) -> Node | None:
    if node.target is _aten.mul.Tensor and node.args[1] == 0:
        return g.aten.zeros_like.default(node.args[0])
    made: Node | None = original(self, node, g)
    return made


def _root_not_inverted(original: Any, named: dict[str, Any], g: GraphBuilder) -> Node:
    return g.aten.mul.Tensor(named["self"], named["other"])


def _scales_swapped(original: Any, named: dict[str, Any], g: GraphBuilder) -> Node:
    node: Node = original({**named, "alpha": named["beta"], "beta": named["alpha"]}, g)
    return node


def _number_not_negated(original: Any, named: dict[str, Any], g: GraphBuilder) -> Node:
    return given(original(named, g), other=named["other"])


def _condition_not_negated(original: Any, named: dict[str, Any], g: GraphBuilder) -> Node:
    return given(original(named, g), mask=named["condition"])


X, NAN = _normal((4, 8))[0], _normal((4, 8))[0].index_fill(0, torch.tensor(1), math.nan)
ZERO_FACTOR = _probe("NaN times zero", lambda x: x * 0.0 + 1.0, NAN)
INTEGERS = _probe("integers times one", lambda x: (x * 1.0) / 2.0, torch.arange(8))
BY_ROOT = _probe("a quotient by a root", lambda x: x / torch.sqrt(x * x + 3.0), X)
BADDBMM = _probe("baddbmm", lambda x, a, b: torch.baddbmm(x, a, b, beta=0.5, alpha=2.0), *_normal(*((2, 4, 4),) * 3))
DIFFERENCE = _probe("a difference", lambda x: torch.sin(x - 2.0), X)
CHOICE = _probe("a choice", lambda x: torch.where(x > 0.5, x, -2.0), X)
EINSUM = _probe("einsum over heads", lambda x, a: torch.einsum("bqhd,bkhd->bhqk", x, a), *_normal(*((4, 4, 4, 4),) * 2))

NORMAL_FORMS = (
    Mutant(
        "x * 0 is 0",
        "a product with zero becomes zero, also where x is NaN",
        Fault(NormalizeArithmetic, "rewrite", _zeros_for_product),
        ZERO_FACTOR,
    ),
    Mutant(
        "x * 1.0 is x for integers",
        "a factor of one is dropped although it makes floats of integers",
        Fault(RemoveIdentities, "check", always(Accept())),
        INTEGERS,
    ),
    Mutant(
        "root not inverted",
        "x / sqrt(y) becomes x * sqrt(y)",
        Fault(normalize_arithmetic._NORMAL_FORMS, _aten.div.Tensor, _root_not_inverted),
        BY_ROOT,
    ),
    Mutant(
        "alpha and beta swapped",
        "baddbmm scales the product by the factor of the sum",
        Fault(normalize_matmul._NORMAL_FORMS, _aten.baddbmm.default, _scales_swapped),
        BADDBMM,
    ),
    Mutant(
        "sign lost in a difference",
        "x - c becomes x + c",
        Fault(normalize_arithmetic._NORMAL_FORMS, _aten.sub.Tensor, _number_not_negated),
        DIFFERENCE,
    ),
    Mutant(
        "condition not negated",
        "where(keep, x, c) fills where x is kept",
        Fault(normalize_arithmetic._NORMAL_FORMS, _aten.where.ScalarOther, _condition_not_negated),
        CHOICE,
    ),
    Mutant(
        "operands of einsum not moved",
        "the axes of the operands stay in their order",
        Fault(normalize_matmul, "_in_order", lambda original, value, axes, wanted, g: value),
        EINSUM,
    ),
)

# -- views, casts and copies ---------------------------------------------------------------------------------------


def _inverse(original: Any, node: Any) -> list[int] | None:
    order: list[int] | None = original(node)
    if order is None or node.target is not _aten.permute.default:
        return order
    return [order.index(axis) for axis in range(len(order))]


def _any(operator: Any) -> Callable[..., Accept | Reject]:
    """Accepts every operator of that kind."""

    def check(original: Any, self: RemovePointlessViews, match: Match) -> Accept | Reject:
        verdict: Accept | Reject = Accept() if match.root.target is operator else original(self, match)
        return verdict

    return check


def _small_is_empty(original: Any, piece: Node, axis: int) -> bool:
    shape = type_of(piece).shape  # type: ignore[union-attr]  # a tensor
    return int(shape[axis]) <= 1


PERMUTED = _probe("a permuted cube", lambda x: torch.sin(x).permute(2, 0, 1) * x, *_normal(_CUBE))
CUT = _probe("a sum of a part", lambda x: torch.sin(x)[:, :3].sum(1), X)
TRUNCATED = _probe("floats by way of integers", lambda x: (x * 9.0).to(torch.int64).to(torch.float32) * 0.5, X)
CLONE = _probe("a clone of the input", lambda x: (x.clone(), x * 2.0), X)
COPY = _probe(
    "a contiguous copy of the input", lambda x: x.contiguous().clone(memory_format=torch.contiguous_format), X
)
EMPTY_PIECE = _probe("an empty piece", lambda x: torch.cat([x[:0], x]), X)
SMALL_PIECE = _probe("a piece of one row", lambda x: torch.cat([torch.sin(x[:1]), torch.cos(x)]).sum(0), X)

VIEWS = (
    Mutant(
        "permuted the other way",
        "a permutation is taken for its inverse",
        Fault(normalize_views, "_order", _inverse),
        PERMUTED,
    ),
    Mutant(
        "cut not made",
        "a slice that leaves something out is dropped",
        Fault(RemovePointlessViews, "check", _any(_aten.slice.Tensor)),
        CUT,
    ),
    Mutant(
        "cast dropped",
        "of a cast to integers and back nothing is left",
        Fault(RemovePointlessViews, "check", _any(_aten._to_copy.default)),
        TRUNCATED,
    ),
    Mutant(
        "clone of the input dropped",
        "an output shares memory with the input",
        Fault(remove_identities, "copy_is_needed", always(False)),
        CLONE,
    ),
    Mutant(
        "copy for layout dropped",
        "a contiguous copy of the input becomes the input",
        Fault(normalize_views, "copy_is_needed", always(False)),
        COPY,
    ),
    Mutant(
        "single piece not copied",
        "what is left of a concatenation is the input itself",
        Fault(remove_empty_pieces, "copy_is_needed", always(False)),
        EMPTY_PIECE,
    ),
    Mutant(
        "small piece taken for an empty one",
        "pieces of one row are left out",
        Fault(remove_empty_pieces, "_is_empty", _small_is_empty),
        SMALL_PIECE,
    ),
)

# -- folding and moving --------------------------------------------------------------------------------------------


def _numbers_ignored(original: Any, value: Any) -> Any:
    return original(value) if isinstance(value, Node | list | tuple | dict) else ""


def _keywords_ignored(original: Any, value: Any) -> Any:
    return () if isinstance(value, dict) else original(value)


def _equal_numbers(original: Any, value: Any) -> Any:
    return value if isinstance(value, int | float) else original(value)


def _folded() -> nn.Module:
    (w,) = parameters((8,))
    return module(lambda x: x * torch.sin(w), w=w)


def _one_before(original: Any, selection: Node, value: Node, axis: int, g: GraphBuilder) -> Node:
    return given(original(selection, value, axis, g), index=1)


def _tokens() -> Inputs:
    ids = torch.randint(5, 90, (2, 8), generator=torch.Generator().manual_seed(0))
    return {"input_ids": ids, "attention_mask": (torch.arange(8) < torch.tensor([[8], [5]])).long()}


SINE = _probe("two factors", lambda x: torch.sin(x * 2.0) + torch.cos(x * 3.0), X)
GELUS = _probe("both forms of GELU", lambda x: F.gelu(x) * F.gelu(x, approximate="tanh"), X)
SIGNED_ZEROS = _probe("quotients by zeros", lambda x: torch.atan(x / 0.0) - torch.atan(x / -0.0), X)
FOLDED = Probe("a constant expression", _folded, lambda: {"x": X.clone()})
SELECTED = _probe("one position of many", lambda x: torch.tanh(torch.sin(x))[2], X)
ENCODER = Probe("a layer of BERT", Encoder, _tokens)
PART_OF_SOFTMAX = _probe("a part of a softmax", lambda x: torch.softmax(x, 0)[:2], X)

FOLDS = (
    Mutant(
        "numbers ignored in comparisons",
        "calls that differ in a number are computed once",
        Fault(eliminate_common_subexpressions, "_key", _numbers_ignored),
        SINE,
    ),
    Mutant(
        "keywords ignored in comparisons",
        "calls that differ in a keyword argument are computed once",
        Fault(eliminate_common_subexpressions, "_key", _keywords_ignored),
        GELUS,
    ),
    Mutant(
        "equal numbers taken for the same",
        "0.0 and -0.0 are one number",
        Fault(eliminate_common_subexpressions, "_key", _equal_numbers),
        SIGNED_ZEROS,
    ),
    Mutant(
        "constants folded in bfloat16",
        "a folded constant has lost digits",
        Fault(fold_constants, "_evaluate", after(lambda value: value.bfloat16().to(value.dtype))),
        FOLDED,
    ),
    Mutant(
        "folded rows one late",
        "what is folded of the positions begins with the last row",
        Fault(fold_constants, "_evaluate", after(lambda value: value.roll(1, -2))),
        ENCODER,
    ),
    Mutant(
        "selection off by one",
        "the position that is selected before the operator is the one before it",
        Fault(move_selections_up, "_selected", _one_before),
        SELECTED,
    ),
    Mutant(
        "softmax of a part",
        "a slice goes before a softmax along the same axis",
        Fault(move_selections_up, "_why_mixed", always("")),
        PART_OF_SOFTMAX,
    ),
)

# -- what a pass owes to the pipeline ------------------------------------------------------------------------------


class Running(nn.Module):
    """Adds what it sees to a buffer, and gives the mean so far."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(8))

    def forward(self, x: Tensor) -> Tensor:
        self.total.add_(x.sum(0))
        return torch.tanh(self.total) * x


@dataclass(frozen=True)
class Silent(Pass):
    """Changes the graph and says that it did not: the pipeline must leave that out."""

    def run(self, graph: Graph, context: PassContext) -> list[Rewrite]:
        find(graph, "sin").target = _aten.cos.default
        return []


def _with_silent_pass() -> txgraph.Pipeline:
    return txgraph.default_pipeline().insert_before("fuse-silu", Silent())


def _write_dropped(original: Any, self: EliminateDeadCode, graph: Graph, context: PassContext) -> list[Rewrite]:
    graph.output.args = (graph.outputs[len(graph.mutations) :],)
    graph.mutations = ()
    return [*original(self, graph, context), Rewrite(self.name, ("write",))]


def _outputs(edit: Callable[[tuple[Any, ...]], tuple[Any, ...]]) -> Callable[..., list[Rewrite]]:
    """Rewrites, and then changes the outputs."""

    def run(original: Any, self: FuseSilu, graph: Graph, context: PassContext) -> list[Rewrite]:
        rewrites: list[Rewrite] = original(self, graph, context)
        graph.output.args = (edit(graph.outputs),)
        return rewrites

    return run


def _in_place(silu: Node) -> Node:
    silu.target = _aten.silu_.default
    return silu


def _again(original: Any, self: FuseSilu, match: Match, g: GraphBuilder) -> Node:
    return g.aten.mul.Tensor(match["x"], g.aten.sigmoid(match["x"]))


RUNNING = Probe("a model with a running total", Running, lambda: {"x": X.clone()})
TWO_OUTPUTS = _probe("SiLU and another output", lambda x: (x * torch.sigmoid(x), torch.sin(x)), X)
GATE = _probe("SiLU", lambda x: torch.sin(x) * torch.sigmoid(torch.sin(x)), X)
SILENT = Probe(
    "SiLU and a pass that hides what it did",
    lambda: module(lambda x: torch.sin(x * torch.sigmoid(x))),
    lambda: {"x": X.clone()},
    pipeline=_with_silent_pass,
)

CONTRACT = (
    Mutant(
        "write taken for dead code",
        "dead code elimination drops the write to a buffer",
        Fault(EliminateDeadCode, "run", _write_dropped),
        RUNNING,
    ),
    Mutant(
        "an output fewer",
        "a pass leaves out the last output",
        Fault(FuseSilu, "run", _outputs(lambda outputs: outputs[:-1])),
        TWO_OUTPUTS,
    ),
    Mutant(
        "outputs swapped",
        "a pass gives back the outputs in another order",
        Fault(FuseSilu, "run", _outputs(lambda outputs: outputs[::-1])),
        TWO_OUTPUTS,
    ),
    Mutant(
        "an operator that writes in place",
        "a pass leaves silu_ in the graph, which overwrites its argument",
        Fault(FuseSilu, "rewrite", after(_in_place)),
        GATE,
    ),
    Mutant(
        "a rule that undoes itself",
        "a rewrite gives back what the pattern looks for",
        Fault(FuseSilu, "rewrite", _again),
        GATE,
    ),
    Mutant(
        "changes that nobody stands by",
        "the pipeline does not see that a pass changed the graph and kept silent about it",
        Fault(Graph, "snapshot", always(())),
        SILENT,
    ),
)
