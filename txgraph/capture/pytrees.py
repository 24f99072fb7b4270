"""Teach torch's pytrees the Hugging Face cache classes, so that they can be inputs and outputs.

A cache is an object whose attributes are tensors, counts of tokens, lists of layers or plain settings; it is
taken apart and put together by its attributes, so every subclass keeps its own class and settings.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch.export.dynamic_shapes import _IntWrapper
from torch.utils import _pytree as pytree

_Context = tuple[type, tuple[str, ...], tuple[tuple[str, Any], ...]]
# Counts of tokens: plain in eager, symbolic in a graph with dynamic sizes, wrapped where torch.export takes them.
_COUNTS = (int, torch.SymInt, _IntWrapper)


def register_caches() -> None:
    """Register every cache class that transformers has loaded; does nothing without transformers."""
    cache_utils = sys.modules.get("transformers.cache_utils")
    if cache_utils is None:
        return
    bases = tuple(getattr(cache_utils, n) for n in ("Cache", "CacheLayerMixin") if hasattr(cache_utils, n))
    for kind in vars(cache_utils).values():
        if isinstance(kind, type) and issubclass(kind, bases) and kind not in pytree.SUPPORTED_NODES:
            pytree.register_pytree_node(
                kind,
                _flatten,
                _unflatten,
                serialized_type_name=f"{kind.__module__}.{kind.__name__}",
                flatten_with_keys_fn=_flatten_with_keys,
            )


def _flatten(value: Any) -> tuple[list[Any], _Context]:
    children = {k: v for k, v in vars(value).items() if _is_child(v)}
    settings = tuple((k, v) for k, v in vars(value).items() if k not in children)
    return list(children.values()), (type(value), tuple(children), settings)


def _flatten_with_keys(value: Any) -> tuple[list[tuple[Any, Any]], _Context]:
    children, context = _flatten(value)
    return [(pytree.GetAttrKey(k), v) for k, v in zip(context[1], children, strict=True)], context


def _unflatten(children: Any, context: _Context) -> Any:
    kind, names, settings = context
    value: Any = object.__new__(kind)
    vars(value).update(settings)
    vars(value).update(zip(names, children, strict=True))
    return value


def _is_child(value: Any) -> bool:
    if isinstance(value, torch.Tensor) or type(value) in (*_COUNTS, *pytree.SUPPORTED_NODES):
        return not isinstance(value, dict)
    return False
