"""What a model holds beside parameters and buffers, what runs may leave behind there, and how that is undone."""

from __future__ import annotations

import contextlib
import copy
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

import torch
from torch import nn

_OF_TORCH = frozenset(vars(nn.Module()))
_COLLECTIONS = (list, dict, set, OrderedDict)  # those of torch.nn.Module, such as its hooks, among them


@contextlib.contextmanager
def attributes_kept(model: nn.Module) -> Iterator[Callable[[], bool]]:
    """Undo what runs of ``model`` assign to its modules: new attributes, other values, and longer collections.

    Tracing runs the user's code, too, and would leave tensors without data behind. Writes to tensors stay.

    Yields:
        A function that tells whether there is something to undo so far.
    """
    modules = list(model.modules())
    attributes = [dict(vars(module)) for module in modules]
    collections = [(v, copy.copy(v)) for each in attributes for v in each.values() if type(v) in _COLLECTIONS]

    def assigned() -> bool:
        attributes_differ = any(not _same_objects(vars(m), was) for m, was in zip(modules, attributes, strict=True))
        return attributes_differ or any(not _same_objects(now, held) for now, held in collections)

    try:
        yield assigned
    finally:
        for module, was in zip(modules, attributes, strict=True):
            vars(module).clear()
            vars(module).update(was)
        for collection, held in collections:
            collection.clear()
            collection.extend(held) if isinstance(collection, list) else collection.update(held)


def _same_objects(a: Collection[Any], b: Collection[Any]) -> bool:
    """Whether two dicts, lists or sets hold the very same objects."""
    return [*map(id, _contents(a))] == [*map(id, _contents(b))]


def _contents(collection: Collection[Any]) -> Iterable[Any]:
    return chain.from_iterable(collection.items()) if isinstance(collection, dict) else collection


def plain_slots(module: nn.Module) -> Iterator[tuple[Any, Any, Any]]:
    """Where a module holds what is neither parameter nor buffer: attributes, and the entries of their lists and dicts.

    Yields:
        The holder, the name, index or key in it, and the value.
    """
    attributes = vars(module)
    for name, value in attributes.items():
        yield attributes, name, value
        if isinstance(value, list | tuple) and name not in _OF_TORCH:
            yield from ((value, at, each) for at, each in enumerate(value))
        elif isinstance(value, dict) and name not in _OF_TORCH:
            yield from ((value, key, each) for key, each in value.items())


def plain_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """Tensors that are attributes of a module by themselves."""
    return {
        f"{path}.{name}" if path else name: value
        for path, module in model.named_modules()
        for holder, name, value in plain_slots(module)
        if isinstance(value, torch.Tensor) and holder is vars(module)
    }


def versions(tensors: Sequence[torch.Tensor]) -> list[int]:
    """Torch's counters of writes; 0 for tensors of inference mode, which have none."""
    return [0 if tensor.is_inference() else tensor._version for tensor in tensors]
