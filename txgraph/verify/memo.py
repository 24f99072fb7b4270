"""Runs of graphs that differ little: a product of the same operands is computed once.

Between two passes the graph runs in eager, and most passes leave most of it as it was. Each value gets a number by what
it was computed from (value numbering); a product whose number was seen is not computed again. That is sound where
operators are functions: graphs are functional, so nothing else reaches a result. The user's own code never runs so.

source: Cocke and Schwartz 1970 (value numbering).
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch._ops import OpOverload
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from txgraph.capture.adapter import is_composite
from txgraph.ir import Graph, interpret
from txgraph.ir.ops import DEFINITIONS
from txgraph.memory import give_back

# What costs more than it takes to copy its result.
_PRODUCTS = {*flop_registry, torch.ops.aten._scaled_dot_product_flash_attention_for_cpu}
_FUNCTIONS = ("aten", "prims", "prim", "txgraph")  # namespaces: another operator may look at the clock


class Memo(TorchDispatchMode):
    """Interprets graphs, and keeps the results of their products.

    Args:
        limit: bytes of results that are kept; what comes later is computed each time.
    """

    def __init__(self, limit: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.computed, self.reused = 0, 0  # products
        self._room = limit
        self._numbers: dict[Hashable, int] = {}
        self._results: dict[Hashable, Any] = {}
        self._constants: dict[int, torch.Tensor] = {}  # alive: another one cannot get its id
        # Of memory: the number of the value in it. Of one run: what is freed meanwhile is never taken for other memory.
        self._known: dict[StorageWeakRef, int] = {}

    def interpret(self, graph: Graph, inputs: Sequence[torch.Tensor]) -> tuple[Any, ...]:
        """As :func:`txgraph.ir.interpret`.

        Args:
            inputs: the same values at each call, in memory of their own.
        """
        for tensor in filter(_lies_in_memory, graph.constants.values()):
            self._constants[id(tensor)] = tensor
            self._known[_memory(tensor)] = self._number(("constant", id(tensor), tensor._version))
        for at, tensor in enumerate(inputs):
            if _lies_in_memory(tensor):
                self._known[_memory(tensor)] = self._number(("input", at))
        with self:
            outputs = interpret(graph, inputs)
        self._known.clear()
        give_back()  # between the results that stay lies much that is free
        return outputs

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        definition = _definition(func)
        if definition is not None:
            with self:
                return definition(*args, **kwargs)
        tensors = [leaf for leaf in _leaves((args, tuple(kwargs.values()))) if isinstance(leaf, torch.Tensor)]
        if not _is_function(func) or _draws(func, args, kwargs) or not all(map(_lies_in_memory, tensors)):
            if _may_write(func):
                for tensor in filter(_lies_in_memory, tensors):
                    self._known.pop(_memory(tensor), None)
            return func(*args, **kwargs)
        key = func, self._key(args), *kwargs, self._key(tuple(kwargs.values()))
        if key in self._results:
            self.reused += 1
            results = _copied(self._results[key])
        else:
            results = func(*args, **kwargs)
            if func.overloadpacket in _PRODUCTS:
                self.computed += 1
                self._keep(key, results)
        for at, value in enumerate(_leaves(results)):
            if _lies_in_memory(value) and _memory(value) not in self._known:  # else it is a view
                place = key, at
                if place not in self._numbers:
                    self._numbers[place] = self._number(_bits(value))
                self._known[_memory(value)] = self._numbers[place]
        return results

    def _keep(self, key: Hashable, results: Any) -> None:
        size = sum(leaf.nbytes for leaf in _leaves(results) if isinstance(leaf, torch.Tensor))
        if size <= self._room:
            self._room -= size
            self._results[key] = _copied(results)

    def _key(self, value: Any) -> Hashable:
        """What an argument is, for the number of a result; equal only where it is the same."""
        if isinstance(value, torch.Tensor):
            place = value.shape, value.stride(), value.storage_offset()
            return self._root(value), value.dtype, *place, value.is_neg(), value.is_conj()
        if isinstance(value, list | tuple):
            return type(value), *map(self._key, value)
        return type(value), repr(value)

    def _root(self, tensor: torch.Tensor) -> int:
        """The number of the value in whose memory a tensor lies; a new one where that is not known."""
        memory = _memory(tensor)
        if memory not in self._known:
            self._known[memory] = self._number(object())
        return self._known[memory]

    def _number(self, key: Hashable) -> int:
        return self._numbers.setdefault(key, len(self._numbers) + 1)


def _lies_in_memory(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.layout is torch.strided and not value.is_quantized


def _leaves(value: Any) -> Iterator[Any]:
    """What operators take or give: lists and tuples are all that they know of structures."""
    if isinstance(value, list | tuple):
        for each in value:
            yield from _leaves(each)
    else:
        yield value


def _copied(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(map(_copied, value))
    return value.clone() if isinstance(value, torch.Tensor) else value


def _memory(tensor: torch.Tensor) -> StorageWeakRef:
    return StorageWeakRef(tensor.untyped_storage())


def _bits(value: torch.Tensor) -> bytes:
    """A digest of the memory that a value lies in."""
    memory = torch.empty(0, dtype=torch.uint8).set_(value.untyped_storage())
    return hashlib.sha256(memory.numpy().data).digest()


@functools.cache
def _definition(func: Any) -> Callable[..., Any] | None:
    """What an operator is made of, if it is made of others."""
    if not isinstance(func, OpOverload):
        return None
    return func.decompose if is_composite(func) else DEFINITIONS.get(func.name())


@functools.cache
def _is_function(func: Any) -> bool:
    """Whether an operator computes tensors, from its arguments alone."""
    return (
        isinstance(func, OpOverload)
        and func.namespace in _FUNCTIONS
        and not func._schema.is_mutable
        and "empty" not in func.name()
    )


def _draws(func: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether a call draws random numbers; attention does if there is dropout."""
    if torch.Tag.nondeterministic_seeded not in func.tags:
        return False
    named = dict(zip((argument.name for argument in func._schema.arguments), args, strict=False)) | dict(kwargs)
    return func.overloadpacket not in _PRODUCTS or named.get("dropout_p", 0.0) != 0.0


def _may_write(func: Any) -> bool:
    """Whether an operator writes to its arguments, or nobody knows."""
    return not isinstance(func, OpOverload) or func.namespace not in _FUNCTIONS or func._schema.is_mutable
