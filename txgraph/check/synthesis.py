"""Programs that a pattern fits, found by trying: the pattern says which operators, chance says the rest.

An operand that the pattern leaves open gets a shape derived from those of the other operands, and is kept if torch's
shape function accepts it.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch._ops import OpOverload
from torch.utils import _pytree as pytree

from txgraph.check.program import AXES, GETITEM, Leaf, Program, Ref, frozen
from txgraph.check.program import Call as Step
from txgraph.rewrite import PatternFactory, RewritePass
from txgraph.rewrite.pattern import Call, Chain, Constant, Either, Item, Literal, Number, Pattern

_TRIES = 40  # for the open operands of one operator
_DTYPES = (torch.float32, torch.float32, torch.float32, torch.bool, torch.int64)
_INTEGERS = (-1, 0, 1, 2, 3, -2, -3)
_NUMBERS = (0.5, 1.0, 2.0, 3.0, 1e-5, 1e-6, 1e-12, 0.125, -1.0, 0.25, -math.inf, -1e9, torch.finfo(torch.float32).min)
_TYPES: dict[str, tuple[Any, ...]] = {
    "dtype": (None, torch.float32, torch.float64, torch.bfloat16, torch.float16),
    "layout": (None,),
    "device": (None,),
    "memory_format": (None, torch.contiguous_format),
}


class _NoWay(Exception):
    """This attempt leads nowhere."""


def programs(rule: RewritePass, numbers: Sequence[float], attempts: int, seed: int = 0) -> Iterator[Program]:
    """Different programs that the rule's pattern may fit, in a fixed order; whether it accepts them is not asked.

    Args:
        numbers: to be tried first where the pattern takes any; it may grow while the programs are made.
    """
    pattern = rule.pattern(PatternFactory())
    seen: set[Program] = set()
    for attempt in range(attempts):
        synthesis = _Synthesis(random.Random(f"{seed} {attempt}"), numbers)
        try:
            synthesis.value(pattern)
        except _NoWay:
            continue
        program = synthesis.program()
        if program not in seen:
            seen.add(program)
            yield program


class _Synthesis:
    """One attempt: the steps so far, with values that have shapes and dtypes but no data."""

    def __init__(self, chance: random.Random, numbers: Sequence[float]) -> None:
        self._chance = chance
        self._numbers = numbers
        self._steps: list[Leaf | Step] = []
        self._values: list[Any] = []
        self._bound: dict[object, Any] = {}

    def program(self) -> Program:
        return Program(tuple(self._steps))

    def value(self, pattern: Any) -> Any:
        """What stands where the pattern does: a value of the program, a plain argument, or what is still open."""
        if not isinstance(pattern, Pattern):
            return pattern
        key = getattr(pattern, "name", "") or id(pattern)
        if key not in self._bound:
            made = self._make(pattern)
            if isinstance(made, Pattern):
                return made
            self._bound[key] = made
        return self._bound[key]

    def _make(self, pattern: Pattern) -> Any:
        if isinstance(pattern, Either):
            return self.value(self._chance.choice(pattern.alternatives))
        if isinstance(pattern, Literal):
            return pattern.value
        if isinstance(pattern, Call):
            return self._call(pattern)
        if isinstance(pattern, Chain):
            return self._chain(pattern)
        if isinstance(pattern, Item):
            return self._add(Step(GETITEM, (self.value(pattern.inner), pattern.index)))
        return pattern

    def _chain(self, pattern: Chain) -> Any:
        value, outer = self.value(pattern.inner), self._bound
        for _ in range(self._chance.choice((0, 1, 1, 2, 3))):
            step = self._chance.choice(list(pattern.steps.values()))
            self._bound = {"rest of the chain": value}  # each step binds names of its own
            value = self.value(step)
        self._bound = outer
        return value

    def _call(self, pattern: Call) -> Ref:
        packet = self._chance.choice(pattern.packets)
        overloads = [getattr(packet, name) for name in packet.overloads() if "out" not in name]
        inner: dict[int, Any] = {}
        for overload in sorted(overloads, key=lambda each: self._rank(each)):
            names = [a.name for a in overload._schema.arguments]
            if len(pattern.args) > len(names) or not set(pattern.kwargs) <= set(names):
                continue
            wanted = {**dict(zip(names, pattern.args, strict=False)), **pattern.kwargs}
            given = {}
            for name, part in wanted.items():
                if id(part) not in inner:
                    inner[id(part)] = self.value(part)
                given[name] = inner[id(part)]
            for _ in range(_TRIES):
                done = self._try(overload, given)
                if done is not None:
                    return done
        raise _NoWay

    def _rank(self, overload: OpOverload) -> float:
        """Graphs have arithmetic in its form of tensors, with numbers among the arguments or not."""
        order = {"Tensor": 0, "default": 1, "Tensor_Scalar": 1, "dim": 1, "int": 1, "self_int": 1}
        return order.get(overload._overloadname, 2) + 1.5 * self._chance.random()

    def _try(self, overload: OpOverload, given: Mapping[str, Any]) -> Ref | None:
        """Fill what is open by chance; ``None`` if the operator does not take it."""
        leaves: dict[str, Leaf] = {}
        filled: dict[str, Any] = {}
        known = [self._values[v.step].shape for v in given.values() if isinstance(v, Ref) and self._is_tensor(v)]
        for argument in overload._schema.arguments:
            value = given.get(argument.name)
            if argument.name not in given:
                continue
            if isinstance(value, Pattern):
                key = getattr(value, "name", "") or id(value)
                value = self._bound[key] if key in self._bound else self._open(value, argument, known, leaves)
                if isinstance(value, Leaf):
                    known = [*known, value.shape]
            filled[argument.name] = value
        metas = {name: torch.empty(leaf.shape, dtype=leaf.dtype, device="meta") for name, leaf in leaves.items()}

        def meta(value: Any) -> Any:
            if isinstance(value, Ref):
                return self._values[value.step]
            if isinstance(value, Leaf):
                return metas[value.name]
            return [meta(each) for each in value] if isinstance(value, list) else value

        try:
            made = overload(**{name: meta(value) for name, value in filled.items()})
        except Exception:  # called with arguments by chance, an operator may raise anything
            return None
        if any(isinstance(part, torch.Tensor) and not part.numel() for part in pytree.tree_leaves(made)):
            return None  # on which operators may end the process: sizes of 0 are tried later, with care
        refs = {}
        for name, leaf in leaves.items():
            refs[name] = self._append(leaf, metas[name])

        def ref(value: Any) -> Any:
            if isinstance(value, Leaf):
                return refs[value.name]
            return [ref(each) for each in value] if isinstance(value, list) else value

        for name, pattern in given.items():
            if isinstance(pattern, Pattern):
                self._bound[getattr(pattern, "name", "") or id(pattern)] = ref(filled[name])
        plain = tuple((name, ref(value)) for name, value in filled.items())
        return self._append(_step(overload, plain), made)

    def _is_tensor(self, ref: Ref) -> bool:
        return isinstance(self._values[ref.step], torch.Tensor)

    def _open(self, pattern: Pattern, argument: Any, known: Sequence[tuple[int, ...]], leaves: dict[str, Leaf]) -> Any:
        """A value for an open argument: a tensor, or a plain one of the schema's type."""
        chance, kind = self._chance, str(argument.type)
        if isinstance(pattern, Number):
            return self._number()
        if kind.startswith("List[Tensor") or kind.startswith("List[Optional[Tensor"):
            return [self._leaf(pattern, argument, known, leaves, f"_{at}") for at in range(chance.choice((1, 2, 3)))]
        if "Tensor" in kind:
            optional = kind.startswith("Optional") and not isinstance(pattern, Constant)
            return None if optional and chance.random() < 0.4 else self._leaf(pattern, argument, known, leaves)
        if argument.name in _TYPES:  # in the schema they are integers
            return chance.choice(_TYPES[argument.name])
        if kind.startswith("Optional") and chance.random() < 0.3:
            return None
        if "List[int]" in kind or "List[SymInt]" in kind or kind == "List[int]":
            return self._sizes(known)
        if "bool" in kind:
            return chance.random() < 0.5
        if "int" in kind:
            return chance.choice(_INTEGERS)
        if "float" in kind or "number" in kind:
            return self._number()
        raise _NoWay

    def _number(self) -> float:
        own = self._numbers and self._chance.random() < 0.7
        return self._chance.choice(self._numbers if own else _NUMBERS)

    def _leaf(
        self, pattern: Pattern, argument: Any, known: Sequence[tuple[int, ...]], leaves: dict[str, Leaf], end: str = ""
    ) -> Leaf:
        name = (getattr(pattern, "name", "") or f"v{len(self._steps)}_{argument.name}") + end
        if name not in leaves:
            dtype = self._chance.choice(_DTYPES)
            constant = isinstance(pattern, Constant) or self._chance.random() < 0.25
            leaves[name] = Leaf(name, self._shape(known), dtype, constant)
        return leaves[name]

    def _shape(self, known: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
        chance = self._chance
        if not known or chance.random() < 0.1:
            return tuple(chance.sample(AXES, chance.choice((1, 2, 2, 3, 3, 4))))
        like = list(chance.choice(known))
        new = chance.choice([axis for axis in AXES if axis not in like] or AXES)
        last, rest = like[-1:], like[:-1]
        among = [*dict.fromkeys(size for shape in known for size in shape), 1, new]
        forms = [
            like,
            like,
            [*like[:-2], *like[-2:][::-1]],  # transposed
            [*like[:-2], new, *last],  # of another length
            [*rest, new],
            [*like[:-2], *last, new],  # a factor of a product
            [new, *last],  # a weight
            last,
            [*last, new],
            [size if chance.random() < 0.5 else 1 for size in like],
            like[chance.randrange(len(like)) :] if like else like,
            [chance.choice(among) for _ in range(chance.choice((1, 2, 2, 3, 4)))],
        ]
        return tuple(chance.choice(forms))

    def _sizes(self, known: Sequence[tuple[int, ...]]) -> list[int]:
        """Axes or sizes: a change of shape of something known, or one or two axes."""
        chance = self._chance
        like = list(chance.choice(known)) if known else []
        at = chance.randrange(len(like)) if like else 0
        forms = [[-1], [-1], [len(like) - 1], [0], like, list(chance.sample(range(len(like)), len(like)))]
        if len(like) > 1:
            at = min(at, len(like) - 2)
            forms += [
                [*like[:at], like[at] * like[at + 1], *like[at + 2 :]],
                [-1, *last] if (last := like[-1:]) else like,
            ]
        split = [axis for axis in AXES if like and like[at] % axis == 0 and like[at] != axis]
        forms += [[*like[:at], axis, like[at] // axis, *like[at + 1 :]] for axis in split]
        forms += [[chance.choice(AXES) if size == 1 else size for size in like]]  # expanded
        return chance.choice(forms)

    def _add(self, step: Step) -> Ref:
        (source, index) = step.args
        return self._append(step, self._values[source.step][index])

    def _append(self, step: Leaf | Step, value: Any) -> Ref:
        self._steps.append(step)
        self._values.append(value)
        return Ref(len(self._steps) - 1)


def _step(overload: OpOverload, named: Sequence[tuple[str, Any]]) -> Step:
    """Arguments stand in their places as far as these are all given; the others go by name."""
    schema, args = overload._schema.arguments, []
    by_name = dict(named)
    for argument in schema:
        if argument.name not in by_name or argument.kwarg_only:
            break
        args.append(frozen(by_name.pop(argument.name)))
    return Step(overload, tuple(args), tuple((name, frozen(value)) for name, value in by_name.items()))
