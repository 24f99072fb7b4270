"""What every test of a pass asks: the graph it makes, the numbers of that graph, and its reasons to stay away."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.export import Dim
from torch.fx import Node

from tests.small import apply, bits, graph_of, module, traced
from txgraph import Pass, PassContext, RewritePass
from txgraph.ir import ConstantStore, Graph, GraphBuilder, interpret, packet_of
from txgraph.ir.known_values import KnownValues
from txgraph.rewrite import Match, PatternFactory, Reject, explain_pass
from txgraph.rewrite.pattern import Failure, State
from txgraph.verify import check_gates, reference

FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
Function = Callable[..., Any]


def normal(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Seeded normal numbers; equal for equal shapes."""
    generator = torch.Generator().manual_seed(sum(size * 7**at for at, size in enumerate(shape)))
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


LAYOUTS = {  # [2, 3, 8] without being contiguous
    "transposed": normal(3, 2, 8).transpose(0, 1),
    "expanded": normal(1, 1, 8).expand(2, 3, 8),
    "sliced": normal(5, 4, 17)[1::2, 1:, 1::2],
}
EDGES: tuple[Callable[[torch.Tensor], torch.Tensor], ...] = (  # of values with two axes or more
    lambda x: x * 0,
    lambda x: x * -0.0,
    lambda x: x * 1e30,
    lambda x: x * 1e-40,
    *(lambda x, value=value: x.index_fill(-2, torch.tensor(1), value) for value in (math.nan, math.inf, -math.inf)),
    *(lambda x, value=value: x.index_fill(-1, torch.tensor(1), value) for value in (math.nan, math.inf, -math.inf)),
)


def rewritten(
    rule: Pass, function: Function, *inputs: torch.Tensor, context: PassContext | None = None, **constants: torch.Tensor
) -> Graph:
    """What a pass makes of a function: as good as eager, nothing left for a second run, nothing kept in the pass."""
    graph = traced(function, *inputs, **constants)
    before, state = str(graph), dict(vars(rule))
    after, _ = apply(rule, graph, context)
    assert str(graph) == before, "the given graph was changed"
    assert not apply(rule, after, context)[1], "a second run changed more"
    assert vars(rule) == state, "the pass holds state"
    gained = aliases(after, inputs) - aliases(graph, inputs)
    assert not gained, f"a write to an output is now seen elsewhere: {gained}"
    assert_numbers(after, function, *inputs, **constants)
    return after


def aliases(graph: Graph, inputs: Sequence[torch.Tensor]) -> set[tuple[int, str]]:
    """Where a write to an output is seen: pairs of that output and an input, constant or other output."""
    seen = set()
    for at in range(len(graph.outputs)):
        held = graph.copy()
        held.constants.tensors = {name: t.clone() for name, t in graph.constants.items()}
        given = [t.clone() for t in inputs]
        outputs = interpret(held, given)
        places = {f"output {i}": v for i, v in enumerate(outputs) if i != at and isinstance(v, torch.Tensor)}
        places |= {f"input {i}": v for i, v in enumerate(given)} | dict(held.constants)
        before = {name: bits(v).clone() for name, v in places.items()}
        _write(outputs[at])
        seen |= {(at, name) for name, v in places.items() if not bits(v).equal(before[name])}
    return seen


def _write(value: Any) -> None:
    """Give every element of a tensor another value, in place."""
    if isinstance(value, torch.Tensor):
        once = value[tuple(slice(0, 1) if stride == 0 else slice(None) for stride in value.stride())]
        once.copy_(once.logical_not() if value.dtype is torch.bool else torch.where(once == 1, 2, 1))


def assert_numbers(graph: Graph, function: Function, *inputs: torch.Tensor, **constants: torch.Tensor) -> None:
    """The graph passes the gates against the function in eager and in float64."""
    truth = reference(module(function), (*inputs, *constants.values()), {})
    gates = check_gates(interpret(graph, [t.clone() for t in inputs]), truth.eager, truth.oracle)
    failed = [str(gate) for gate in gates if not gate.passed]
    assert not failed, failed


def reasons(
    rule: RewritePass,
    function: Function,
    *inputs: torch.Tensor,
    context: PassContext | None = None,
    **constants: torch.Tensor,
) -> list[str]:
    """Why a rule applies nowhere in a function, the nearest miss first."""
    graph = traced(function, *inputs, **constants)
    matches, misses = explain_pass(rule, graph, context or PassContext())
    assert not matches, matches
    assert not apply(rule, graph, context)[1], "rewritten, though nothing matches"
    return [miss.reason for miss in misses]


def only_reason(rule: Pass, graph: Graph) -> str:
    """Why a pass does not rewrite the only place that it looks at."""
    rewrites, misses = explain_pass(rule, graph, PassContext())
    assert not rewrites
    assert not apply(rule, graph)[1]
    (miss,) = misses
    return miss.reason


def assert_any_sizes(rule: Pass, function: Function, operator: str) -> None:
    """Of a function of [B, S, 8] whose first axes vary, the pass makes one operator, right for other sizes, too."""
    sizes = ({0: Dim("B"), 1: Dim("S")},)
    after, _ = apply(rule, graph_of(module(function), normal(2, 3, 8), dynamic_shapes=sizes))
    assert after.count() == {operator: 1}
    for b, s in ((2, 3), (5, 2), (4, 17)):
        assert_numbers(after, function, normal(b, s, 8))


def rejections(rule: RewritePass, function: Function, *inputs: torch.Tensor, **constants: torch.Tensor) -> list[str]:
    """Why a rule's check rejects the places where its pattern fits, each of its alternatives by itself."""
    graph, context = traced(function, *inputs, **constants), PassContext()
    pattern = rule.pattern(PatternFactory())
    found = []
    for root in (n for n in graph.calls() if packet_of(n) in pattern.roots()):
        for state in pattern.match(root, State(), Failure()):
            verdict = rule.check(Match(root, state.nodes, state.bound, graph, context, KnownValues(graph)))
            found += [verdict.reason] if isinstance(verdict, Reject) else []
    return found


class Program:
    """A graph made call by call, in which the type of a node is its real value: the truth for analyses."""

    def __init__(self) -> None:
        fx = torch.fx.Graph()
        fx.output(())
        self.graph = Graph(fx, ConstantStore())
        self._builder = GraphBuilder(self.graph, self.graph.output)

    def call(self, target: Callable[..., Any], *args: Any, **kwargs: Any) -> Node:
        """A call of an operator, computed at once."""
        try:
            return self._builder.call(target, *args, **kwargs)
        except (RuntimeError, IndexError, TypeError):
            self.graph.fx.erase_node(next(n for n in reversed(self.graph.fx.nodes) if n.op != "output"))
            raise

    def constant(self, tensor: torch.Tensor) -> Node:
        """A tensor that the model holds."""
        name = f"c{len(self.graph.constants)}"
        self.graph.constants.tensors[name] = tensor
        with self.graph.fx.inserting_before(next(iter(self.graph.fx.nodes))):
            node = self.graph.fx.get_attr(name)
        node.meta["val"] = tensor
        return node

    def input(self, tensor: torch.Tensor) -> Node:
        """A tensor that a call gives: its values are not known."""
        with self.graph.fx.inserting_before(next(iter(self.graph.fx.nodes))):
            node = self.graph.fx.placeholder("x")
        node.meta["val"] = tensor
        return node
