"""The calls that lossy rewrites are chosen by, and those that they are accepted on."""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils import _pytree as pytree

from txgraph.ir.digest import digest_of

MOST_CALLS = 64


@dataclass(frozen=True)
class Call:
    """One call of the model."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    def tensors(self) -> list[torch.Tensor]:
        """The tensors among its arguments."""
        leaves = pytree.tree_leaves((self.args, dict(self.kwargs)))
        return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]


@dataclass(frozen=True)
class Calibration:
    """Calls of a model with data like that it will see.

    Attributes:
        calls: in the order of the loader.
    """

    calls: tuple[Call, ...]

    @classmethod
    def of(cls, loader: Iterable[Any]) -> Calibration:
        """Take what a loader gives, the first :data:`MOST_CALLS` batches: mappings by name, tuples, or single tensors.

        Raises:
            TypeError: it is no loader, or a batch is something else. ValueError: fewer than two batches, one that is
                made otherwise than the first, or one with NaN or infinity.
        """
        if isinstance(loader, torch.Tensor | str | Mapping) or not isinstance(loader, Iterable):
            raise TypeError(
                f"calibration must be an iterable of batches, such as a DataLoader or a list of kwargs, "
                f"got {type(loader).__name__}"
            )
        calls = tuple(_call(at, batch) for at, batch in enumerate(itertools.islice(loader, MOST_CALLS)))
        if len(calls) < 2:
            raise ValueError(
                f"calibration gave {'one batch' if calls else 'no batch'}: two at least are needed, as some are held "
                f"out. Give a loader with smaller batches, or one that can still be iterated over"
            )
        for at, call in enumerate(calls):
            if _form(call) != _form(calls[0]):
                raise ValueError(
                    f"batch {at} of the calibration is made otherwise than batch 0: {_form(call)}, not "
                    f"{_form(calls[0])}"
                )
        return cls(calls)

    def split(self, seed: int) -> tuple[tuple[Call, ...], tuple[Call, ...]]:
        """The calls that choose, and those that are held out: about half each, by chance."""
        order = list(range(len(self.calls)))
        random.Random(seed).shuffle(order)
        half = len(order) // 2
        first, second = sorted(order[:half]), sorted(order[half:])
        return tuple(self.calls[at] for at in first), tuple(self.calls[at] for at in second)

    @property
    def digest(self) -> str:
        """Of all values."""
        digest = hashlib.sha256()
        for call in self.calls:
            digest.update(_form(call).encode())
            for tensor in call.tensors():
                digest.update(digest_of(tensor).encode())
        return digest.hexdigest()


def _call(at: int, batch: Any) -> Call:
    if isinstance(batch, Mapping):
        call = Call((), dict(batch))
    elif isinstance(batch, tuple | list):
        call = Call(tuple(batch), {})
    elif isinstance(batch, torch.Tensor):
        call = Call((batch,), {})
    else:
        raise TypeError(
            f"batch {at} of the calibration is a {type(batch).__name__}: expected a mapping of arguments by name, "
            f"a tuple of arguments, or a tensor"
        )
    for path, leaf in pytree.tree_leaves_with_path((call.args, dict(call.kwargs))):
        if isinstance(leaf, torch.Tensor) and leaf.is_floating_point() and not bool(leaf.isfinite().all()):
            raise ValueError(f"batch {at} of the calibration has NaN or infinity in {_named(path)}")
    return call


def _form(call: Call) -> str:
    """Names, and what is no tensor; of tensors dtype and rank."""
    leaves = pytree.tree_leaves_with_path((call.args, dict(call.kwargs)))
    return ", ".join(f"{_named(path)}: {_kind(leaf)}" for path, leaf in leaves)


def _named(path: tuple[Any, ...]) -> str:
    return pytree.keystr(path[1:]).strip("[]'\"")


def _kind(leaf: Any) -> str:
    return f"{leaf.dtype} with {leaf.ndim} axes" if isinstance(leaf, torch.Tensor) else repr(leaf)
