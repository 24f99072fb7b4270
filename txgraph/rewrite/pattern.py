"""What a rule looks for: small patterns over operators and values, built with ``p``.

    p.aten.add(p.any("x"), p.aten.neg(p.any("y")))

* ``p.aten.op(...)`` / ``p.txgraph.op(...)``: a call of the operator, any overload. Arguments stand in
  schema order or by schema name; an argument the pattern does not mention must have its default.
  Commutative operators match in either order.
* ``p.any(name)``: any value. A name that occurs twice must bind the same value.
* ``p.const(name)``: a constant of the graph. ``p.number(name)``: a Python number.
* ``p.either(a, b)``: the first alternative that matches.
* ``p.optional(wrap, inner)``: ``wrap(inner)``, or ``inner`` alone.
* ``p.chain(inner, "steps", scale=wrap, mask=wrap)``: ``inner`` under any number of these wrappers in any order; binds
  ``"steps"`` to a tuple of :class:`Step`, outermost first.
* ``p.item(inner, index)``: one result of an operator that has several.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from operator import getitem
from typing import Any

import torch
from torch._ops import OpOverload, OpOverloadPacket
from torch.fx import Node

from txgraph.ir import arguments, describe, op_name, operator_of, packet_of

Operator = OpOverloadPacket | Callable[..., Any]

_aten = torch.ops.aten
COMMUTATIVE: frozenset[OpOverload] = frozenset(
    {
        _aten.add.Tensor,
        _aten.mul.Tensor,
        _aten.maximum.default,
        _aten.minimum.default,
        _aten.eq.Tensor,
        _aten.ne.Tensor,
        _aten.bitwise_and.Tensor,
        _aten.bitwise_or.Tensor,
        _aten.logical_and.default,
        _aten.logical_or.default,
    }
)


@dataclass(frozen=True)
class State:
    """Values bound so far, and the operator nodes matched so far (root first)."""

    bound: Mapping[str, Any] = field(default_factory=dict)
    nodes: tuple[Node, ...] = ()

    def bind(self, name: str, value: Any) -> State | None:
        """This state with one more binding; ``None`` if the name is bound to another value."""
        if not name:
            return self
        if name in self.bound:
            return self if _same(self.bound[name], value) else None
        return State({**self.bound, name: value}, self.nodes)


@dataclass
class Failure:
    """The failure that came nearest to a match: the whole pattern fitted, or else the most nodes did.

    Most failures are never read: a reason that takes time to write is given as a function.
    """

    depth: int = -1
    why: str | Callable[[], str] = ""
    node: Node | None = None
    complete: bool = False

    def record(self, depth: int, why: str | Callable[[], str], node: Node | None, complete: bool = False) -> None:
        """Keep the reason if it came nearer than the one kept so far; ``complete``: the whole pattern fitted."""
        if (complete, depth) > (self.complete, self.depth):
            self.depth, self.why, self.node, self.complete = depth, why, node, complete

    @property
    def reason(self) -> str:
        """The first condition that failed."""
        return self.why if isinstance(self.why, str) else self.why()


class Pattern:
    """Base of all patterns."""

    def match(self, value: Any, state: State, failure: Failure) -> Iterator[State]:
        """All ways in which ``value`` matches, given what ``state`` has bound."""
        raise NotImplementedError

    def roots(self) -> frozenset[Operator]:
        """What the pattern's outermost node can call (:func:`txgraph.ir.operator_of`)."""
        raise ValueError(f"{type(self).__name__} cannot be the outermost pattern of a rule: start with an operator")


@dataclass(frozen=True)
class AnyValue(Pattern):
    """Any value."""

    name: str = ""

    def match(self, value: Any, state: State, failure: Failure) -> Iterator[State]:
        bound = state.bind(self.name, value)
        if bound is not None:
            yield bound
        else:
            failure.record(len(state.nodes), f"{self.name!r} occurs twice with two values", _node(value))


@dataclass(frozen=True)
class Constant(Pattern):
    """A constant of the graph."""

    name: str = ""

    def match(self, value: Any, state: State, failure: Failure) -> Iterator[State]:
        if isinstance(value, Node) and value.op == "get_attr":
            bound = state.bind(self.name, value)
            if bound is not None:
                yield bound
                return
        failure.record(
            len(state.nodes), lambda: f"expected a constant{_as(self.name)}, found {_show(value)}", _node(value)
        )


@dataclass(frozen=True)
class Number(Pattern):
    """A Python number."""

    name: str = ""

    def match(self, value: Any, state: State, failure: Failure) -> Iterator[State]:
        if isinstance(value, int | float) and not isinstance(value, bool):
            bound = state.bind(self.name, value)
            if bound is not None:
                yield bound
                return
        failure.record(
            len(state.nodes), lambda: f"expected a number{_as(self.name)}, found {_show(value)}", _node(value)
        )


@dataclass(frozen=True)
class Literal(Pattern):
    """Exactly this plain value."""

    value: Any

    def match(self, value: Any, state: State, failure: Failure) -> Iterator[State]:
        if not isinstance(value, Node) and _same(self.value, value):
            yield state
        else:
            failure.record(len(state.nodes), lambda: f"expected {self.value!r}, found {_show(value)}", _node(value))


@dataclass(frozen=True)
class Either(Pattern):
    """Any one of several alternatives."""

    alternatives: tuple[Pattern, ...]

    def match(self, value: Any, state: State, failure: Failure) -> Iterator[State]:
        if self._operators and (not isinstance(value, Node) or operator_of(value) not in self._operators):
            failure.record(
                len(state.nodes), lambda: f"expected {_names(self._operators)}, found {_show(value)}", _node(value)
            )
            return
        for alternative in self.alternatives:
            yield from alternative.match(value, state, failure)

    @cached_property
    def _operators(self) -> frozenset[Operator]:
        """What the value can only be; empty if an alternative fits values of any kind."""
        each = [a.roots() for a in self.alternatives if isinstance(a, Call | Chain | Either | Item)]
        return frozenset().union(*each) if len(each) == len(self.alternatives) else frozenset()

    def roots(self) -> frozenset[Operator]:
        return frozenset().union(*(a.roots() for a in self.alternatives))


@dataclass(frozen=True)
class Call(Pattern):
    """A call of one of several operators."""

    packets: tuple[OpOverloadPacket, ...]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    name: str = ""

    def match(self, value: Any, state: State, failure: Failure) -> Iterator[State]:
        if not isinstance(value, Node) or packet_of(value) not in self.packets:
            failure.record(
                len(state.nodes), lambda: f"expected {_names(self.packets)}, found {_show(value)}", _node(value)
            )
            return
        bound = state.bind(self.name, value)
        if bound is None:
            return
        nodes = bound.nodes if value in bound.nodes else (*bound.nodes, value)
        yield from self._match_arguments(value, State(bound.bound, nodes), failure)

    def _match_arguments(self, node: Node, state: State, failure: Failure) -> Iterator[State]:
        schema = node.target._schema.arguments  # type: ignore[union-attr]  # packet_of: an operator
        given = arguments(node)
        names = [a.name for a in schema]
        if len(self.args) > len(names) or not set(self.kwargs) <= set(names):
            failure.record(len(state.nodes), f"{op_name(node)} has no such arguments", node)
            return
        wanted = {**dict(zip(names, self.args, strict=False)), **self.kwargs}
        unexpected = [a.name for a in schema if a.name not in wanted and not _same(given[a.name], _default(a))]
        if unexpected:
            name = unexpected[0]
            failure.record(len(state.nodes), lambda: f"{op_name(node)} has {name}={_show(given[name])}", node)
            return
        values = [given[name] for name in wanted]
        yield from _match_all(list(wanted.values()), values, state, failure)
        if node.target in COMMUTATIVE and len(values) >= 2:
            swapped = [values[1], values[0], *values[2:]]
            yield from _match_all(list(wanted.values()), swapped, state, failure)

    def roots(self) -> frozenset[Operator]:
        return frozenset(self.packets)


@dataclass(frozen=True)
class Step:
    """One wrapper of a chain: which of them, the node, and the values bound in it."""

    kind: str
    node: Node
    bound: Mapping[str, Any]


_LONGEST_CHAIN = 8  # a sum has two sides to follow: without a limit the time doubles with every term
_REST = AnyValue("rest of the chain")


@dataclass(frozen=True)
class Chain(Pattern):
    """An inner pattern under any number of steps, in any order."""

    inner: Pattern
    name: str
    steps: Mapping[str, Pattern]

    def match(self, value: Any, state: State, failure: Failure) -> Iterator[State]:
        yield from self._match_from(value, state, failure, ())

    def _match_from(self, value: Any, state: State, failure: Failure, taken: tuple[Step, ...]) -> Iterator[State]:
        operator = operator_of(value) if isinstance(value, Node) else None
        if operator in self.inner.roots():
            for found in self.inner.match(value, state, failure):
                bound = found.bind(self.name, taken)
                if bound is not None:
                    yield bound
        fitting = {k: s for k, s in self.steps.items() if operator in s.roots()} if len(taken) < _LONGEST_CHAIN else {}
        for kind, step in fitting.items():
            for found in step.match(value, State({}, state.nodes), failure):
                of_step = {name: v for name, v in found.bound.items() if name != _REST.name}
                below = State(state.bound, found.nodes)
                steps = (*taken, Step(kind, value, of_step))
                yield from self._match_from(found.bound[_REST.name], below, failure, steps)
        if not fitting and operator not in self.inner.roots():
            failure.record(
                len(state.nodes), lambda: f"expected {_names(self.inner.roots())}, found {_show(value)}", _node(value)
            )

    def roots(self) -> frozenset[Operator]:
        return self.inner.roots().union(*(step.roots() for step in self.steps.values()))


@dataclass(frozen=True)
class Item(Pattern):
    """One result of an operator that has several."""

    inner: Pattern
    index: int

    def match(self, value: Any, state: State, failure: Failure) -> Iterator[State]:
        if isinstance(value, Node) and value.target is getitem and value.args[1] == self.index:
            yield from self.inner.match(value.args[0], State(state.bound, (*state.nodes, value)), failure)
        else:
            failure.record(
                len(state.nodes), lambda: f"expected result {self.index}, found {_show(value)}", _node(value)
            )

    def roots(self) -> frozenset[Operator]:
        return frozenset({getitem})


def _match_all(wanted: list[Any], values: list[Any], state: State, failure: Failure) -> Iterator[State]:
    if not wanted:
        yield state
        return
    pattern = wanted[0] if isinstance(wanted[0], Pattern) else Literal(wanted[0])
    for matched in pattern.match(values[0], state, failure):
        yield from _match_all(wanted[1:], values[1:], matched, failure)


class _Operators:
    """``p.aten``: turns ``p.aten.add`` into a function that makes patterns."""

    def __init__(self, namespace: Any) -> None:
        self._namespace = namespace

    def __getattr__(self, name: str) -> Callable[..., Pattern]:
        packet = getattr(self._namespace, name)
        return lambda *args, name="", **kwargs: Call((packet,), args, kwargs, name)


class PatternFactory:
    """The ``p`` handed to :meth:`RewritePass.pattern`."""

    aten = _Operators(torch.ops.aten)
    txgraph = _Operators(torch.ops.txgraph)

    def any(self, name: str = "") -> Pattern:
        """Any value, bound to ``name``."""
        return AnyValue(name)

    def const(self, name: str = "") -> Pattern:
        """A constant of the graph (a parameter, a buffer, or a folded value)."""
        return Constant(name)

    def number(self, name: str = "") -> Pattern:
        """A Python number."""
        return Number(name)

    def either(self, *alternatives: Pattern) -> Pattern:
        """The alternatives are tried in order."""
        return Either(alternatives)

    def optional(self, wrap: Callable[[Pattern], Pattern], inner: Pattern) -> Pattern:
        """``wrap(inner)`` where it matches, else ``inner`` alone."""
        return Either((wrap(inner), inner))

    def chain(self, inner: Pattern, name: str, **steps: Callable[[Pattern], Pattern]) -> Pattern:
        """``inner`` under any number of ``steps``, in any order; each is an operator around its argument."""
        return Chain(inner, name, {kind: wrap(_REST) for kind, wrap in steps.items()})

    def item(self, inner: Pattern, index: int) -> Pattern:
        """Result ``index`` of an operator that has several."""
        return Item(inner, index)


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Node) or isinstance(b, Node):
        return a is b
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b, strict=True))
    return type(a) is type(b) and bool(a == b) if isinstance(a, bool) or isinstance(b, bool) else bool(a == b)


def _default(argument: torch.Argument) -> Any:
    return argument.default_value if argument.has_default_value() else None


def _names(packets: Iterable[Operator]) -> str:
    names = [str(p) if isinstance(p, OpOverloadPacket) else p.__name__ for p in packets]
    return " or ".join(sorted(name.removeprefix("aten.") for name in names))


def _node(value: Any) -> Node | None:
    return value if isinstance(value, Node) else None


def _show(value: Any) -> str:
    return describe(value) if isinstance(value, Node) else repr(value)


def _as(name: str) -> str:
    return f" for {name!r}" if name else ""
