"""Whether a model's dictionaries and tensors are as they were, in C: guards look at hundreds of them in each call."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from txgraph.binaries import installed
from txgraph.capture.adapter import tensor_reads

Slot = tuple[Any, Any, Any]  # what holds a value, its name, key or index there, and the value


def unchanged_check(
    slots: Sequence[Slot], dicts: Sequence[Mapping[str, object]] = (), tensors: Sequence[torch.Tensor] = ()
) -> Callable[[], bool]:
    """A check that slots hold the very same values, and that dicts and tensors have the sizes and memory of now.

    It may fail where nothing has changed: always, if txgraph's installation did not compile it, or if a tensor is of a
    kind that it cannot read. Who asks looks closer then.

    Args:
        tensors: their addresses, dtypes, shapes and strides are compared; not their values.
    """
    library, reads = _library(), tensor_reads(tensors)
    if library is None or reads is None:
        return _unknown
    forms = (ctypes.c_int64 * sum(3 + 2 * tensor.dim() for tensor in tensors))()
    if not library.read_forms(tuple(tensors), reads.functions, reads.offset, forms):
        return _unknown
    holders, keys, values = zip(*slots, strict=True) if slots else ((), (), ())
    lengths = (ctypes.c_int64 * len(dicts))(*map(len, dicts))
    arguments = (holders, keys, values, tuple(dicts), lengths, tuple(tensors), reads.functions, reads.offset, forms)
    return functools.partial(library.unchanged, *arguments)


def _unknown() -> bool:
    return False


@functools.cache
def _library() -> ctypes.PyDLL | None:
    path = installed("unchanged", Path(__file__).parent)
    if path is None:
        return None
    library = ctypes.PyDLL(str(path))
    object_, numbers = ctypes.py_object, ctypes.c_void_p
    library.read_forms.restype = library.unchanged.restype = ctypes.c_bool
    library.read_forms.argtypes = [object_, numbers, ctypes.c_int64, numbers]
    library.unchanged.argtypes = [*[object_] * 4, numbers, object_, numbers, ctypes.c_int64, numbers]
    return library
