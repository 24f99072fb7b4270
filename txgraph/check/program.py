"""A small program of operators whose sizes can be varied: what a rule is tried on.

Sizes are coded: every axis has a prime of its own, and a size that is a product of axes is the product of their primes.
So one program stands for graphs of all sizes.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import torch
from torch._ops import OpOverload
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.node import map_arg

from txgraph.ir import ConstantStore, Graph, GraphBuilder

AXES = (2, 3, 5, 7, 11, 13)
GETITEM = operator.getitem

_aten = torch.ops.aten
_SIZES = (
    "shape",
    "size",
    "sizes",
    "split_sizes",
    "split_size",
    "normalized_shape",
    "repeats",
)  # arguments that are sizes


@dataclass(frozen=True)
class Leaf:
    """A tensor that the program takes, or a constant that it holds.

    Attributes:
        dtype: ``torch.float32`` stands for any floating-point dtype.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32
    constant: bool = False


@dataclass(frozen=True)
class Ref:
    """A value of the program: the result of its step of that index."""

    step: int


@dataclass(frozen=True)
class Call:
    """An operator on values and plain arguments."""

    target: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True)
class Program:
    """Leaves and calls in order; the last is the result."""

    steps: tuple[Leaf | Call, ...]

    @cached_property
    def leaves(self) -> tuple[Leaf, ...]:
        """What it takes and holds."""
        return tuple(step for step in self.steps if isinstance(step, Leaf))

    @property
    def axes(self) -> tuple[int, ...]:
        """The primes of the axes that it has."""
        return tuple(
            axis for axis in AXES if any(not size % axis for leaf in self.leaves for size in leaf.shape if size)
        )

    def framed(self) -> Program:
        """The same between operators of its own, so that it neither reads inputs nor makes outputs."""
        steps: list[Leaf | Call] = []
        moved: dict[int, int] = {}
        for at, step in enumerate(self.steps):
            steps.append(step if isinstance(step, Leaf) else _with_moved(step, moved))
            if isinstance(step, Leaf) and not step.constant:
                before = _aten.logical_not.default if step.dtype is torch.bool else _aten.neg.default
                steps.append(Call(before, (Ref(len(steps) - 1),)))
            moved[at] = len(steps) - 1
        return Program((*steps, Call(_aten.stack.default, ((Ref(len(steps) - 1),),))))

    @classmethod
    def of(cls, function: Callable[..., Any], **shapes: str) -> Program:
        """The program that a function of tensors computes.

        Args:
            shapes: the axes of each argument, by names with spaces between: ``x="B S D", w="N D"``. An axis has a name,
                is a product of names as in ``G*R``, or is ``1``. ``const`` in front makes the argument a constant,
                ``int`` or ``bool`` gives it that dtype: ``i="int B"``.

        Raises:
            ValueError: an argument of the function has no shape, or there are more axes than can be told apart.
        """
        missing = set(inspect.signature(function).parameters) ^ set(shapes)
        if missing:
            raise ValueError(f"the function's arguments and the shapes differ in {sorted(missing)}")
        coded: dict[str, int] = {}
        leaves = [_leaf(name, shapes[name].split(), coded) for name in inspect.signature(function).parameters]
        tensors = [torch.zeros(leaf.shape, dtype=leaf.dtype) for leaf in leaves]
        with torch.no_grad():
            traced = make_fx(function, tracing_mode="fake", pre_dispatch=True)(*tensors).graph
        steps: list[Leaf | Call] = list(leaves)
        places = {node: at for at, node in enumerate(n for n in traced.nodes if n.op == "placeholder")}
        for node in traced.nodes:
            if node.op == "call_function":
                args, kwargs = map_arg((node.args, node.kwargs), lambda n: Ref(places[n]))  # type: ignore[arg-type, return-value]  # Ref stands for a node
                steps.append(Call(node.target, frozen(args), tuple((n, frozen(a)) for n, a in kwargs.items())))
                places[node] = len(steps) - 1
        result = traced.output_node().args[0]
        if result not in places or places[result] != len(steps) - 1:
            raise ValueError("the function must return one tensor: the value that the rule replaces, or one made of it")
        return cls(tuple(steps))

    def graph(
        self, constants: Mapping[str, torch.Tensor], inputs: Mapping[str, torch.Tensor], sizes: Mapping[int, int]
    ) -> Graph:
        """The program as a graph, for these tensors.

        Raises:
            RuntimeError, IndexError, ValueError, TypeError: an operator refuses the sizes or dtypes.
        """
        mode = FakeTensorMode()
        fx = torch.fx.Graph()
        graph = Graph(fx, ConstantStore())
        values: list[Any] = []
        placeholders = [leaf for leaf in self.leaves if not leaf.constant]
        nodes = {leaf.name: fx.placeholder(leaf.name) for leaf in placeholders}
        for leaf in self.leaves:
            if leaf.constant:
                nodes[leaf.name] = fx.get_attr(leaf.name)
                graph.constants.tensors[leaf.name] = constants[leaf.name]
            tensor = constants[leaf.name] if leaf.constant else inputs[leaf.name]
            nodes[leaf.name].meta["val"] = mode.from_tensor(tensor, static_shapes=True)
        fx.output(())
        builder = GraphBuilder(graph, graph.output)
        dtypes = {tensor.dtype for tensor in (*constants.values(), *inputs.values()) if tensor.dtype.is_floating_point}
        for step in self.steps:
            if isinstance(step, Leaf):
                values.append(nodes[step.name])
            else:
                args, kwargs = self._arguments(step, sizes, values.__getitem__, next(iter(dtypes), torch.float32))
                values.append(builder.call(step.target, *args, **kwargs))
        graph.output.args = ((values[-1],),)
        graph.eliminate_dead_code()  # results of an operator that nothing uses
        return graph

    @staticmethod
    def _arguments(
        step: Call, sizes: Mapping[int, int], value: Callable[[int], Any], dtype: torch.dtype
    ) -> tuple[list[Any], dict[str, Any]]:
        def fill(argument: Any) -> Any:
            if isinstance(argument, Ref):
                return value(argument.step)
            if isinstance(argument, tuple):
                return [fill(each) for each in argument]
            return dtype if argument is torch.float32 else argument

        named = [(name, fill(resized(a, sizes) if name in _SIZES else a)) for name, a in _named(step)]
        count = len(step.args)
        return [a for _, a in named[:count]], dict(named[count:])


def _leaf(name: str, words: list[str], coded: dict[str, int]) -> Leaf:
    dtypes = {"int": torch.int64, "bool": torch.bool}
    axes = [word.split("*") for word in words if word not in ("const", *dtypes)]
    for axis in (each for product in axes for each in product):
        if axis != "1" and axis not in coded:
            if len(coded) == len(AXES):
                raise ValueError(f"axis {axis} is one too many: {len(AXES)} can be told apart")
            coded[axis] = AXES[len(coded)]
    shape = tuple(prod(coded.get(axis, 1) for axis in product) for product in axes)
    dtype = next((dtypes[word] for word in words if word in dtypes), torch.float32)
    return Leaf(name, shape, dtype, "const" in words)


def _with_moved(step: Call, moved: Mapping[int, int]) -> Call:
    def move(argument: Any) -> Any:
        if isinstance(argument, Ref):
            return Ref(moved[argument.step])
        return tuple(map(move, argument)) if isinstance(argument, tuple) else argument

    return Call(step.target, move(step.args), tuple((name, move(value)) for name, value in step.kwargs))


def frozen(value: Any) -> Any:
    """With tuples in the places of lists."""
    return tuple(map(frozen, value)) if isinstance(value, list | tuple) else value


def _named(step: Call) -> list[tuple[str, Any]]:
    names = [a.name for a in step.target._schema.arguments] if isinstance(step.target, OpOverload) else []
    positional = zip((*names, *[""] * len(step.args)), step.args, strict=False)
    return [*positional, *step.kwargs]


def resized(size: Any, sizes: Mapping[int, int]) -> Any:
    """A coded size, or a list of them, with other sizes for the axes."""
    if isinstance(size, tuple):
        return tuple(resized(each, sizes) for each in size)
    if not isinstance(size, int) or size < 2:
        return size
    factors = [axis for axis in AXES for _ in range(_power(size, axis))]
    return prod(sizes.get(axis, axis) for axis in factors) if prod(factors) == size else size


def _power(size: int, axis: int) -> int:
    power = 0
    while size % axis == 0:
        size, power = size // axis, power + 1
    return power
