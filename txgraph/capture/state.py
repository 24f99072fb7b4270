"""What a run of a model may leave behind on its modules, and how it is undone."""

from __future__ import annotations

import contextlib
import copy
from collections import OrderedDict
from collections.abc import Iterator

import torch
from torch import nn

_COLLECTIONS = (list, dict, set, OrderedDict)  # those of torch.nn.Module, such as its hooks, among them


@contextlib.contextmanager
def attributes_kept(model: nn.Module) -> Iterator[None]:
    """Undo what runs of ``model`` assign to its modules: new attributes, other values, and longer collections.

    Tracing runs the user's code, too, and would leave tensors without data behind. Writes to tensors stay.
    """
    modules = list(model.modules())
    attributes = [dict(vars(module)) for module in modules]
    collections = [(v, copy.copy(v)) for each in attributes for v in each.values() if type(v) in _COLLECTIONS]
    try:
        yield
    finally:
        for module, was in zip(modules, attributes, strict=True):
            vars(module).clear()
            vars(module).update(was)
        for collection, held in collections:
            collection.clear()
            collection.extend(held) if isinstance(collection, list) else collection.update(held)


def plain_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """Tensors that are plain attributes of a module: neither parameters nor buffers."""
    return {
        f"{path}.{name}" if path else name: value
        for path, module in model.named_modules()
        for name, value in vars(module).items()
        if isinstance(value, torch.Tensor)
    }
