"""The files of the cache: a folder for each fingerprint, in it one for each graph that was kept.

Where: ``$TXGRAPH_CACHE_DIR``, else ``txgraph`` in ``$XDG_CACHE_HOME`` or ``~/.cache``. Graphs are pickled: like every
such cache, it is as trustworthy as those who can write to it.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from txgraph.cache.fingerprint import CannotTell
from txgraph.capture.state import plain_tensors
from txgraph.ir.digest import digest_of

log = logging.getLogger(__name__)

MOST_BYTES = 4 << 30  # of the weights that a graph made: what needs more is not kept
_CALL, _WEIGHTS = "call.pickle", "weights.pt"


def is_on() -> bool:
    """Whether the environment allows a cache at all."""
    return os.environ.get("TXGRAPH_CACHE") != "0"


class Store:
    """The cache on disk."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or default_folder()

    def find(self, key: str, model: nn.Module) -> Iterator[tuple[Path, Any]]:
        """What was kept under ``key`` for a model with such values, with its folder."""
        tensors = _tensors_of(model)
        for folder in sorted((self.folder / key).glob("*")):
            try:
                value = _read(folder, tensors)
            except (OSError, _Damaged) as error:
                log.warning("%s cannot be read and is left aside: %s", folder, error)
                continue
            if value is not None:
                yield folder, value

    def keep(self, key: str, model: nn.Module, value: Any, frozen: Mapping[str, torch.Tensor]) -> Path:
        """Keep ``value``; returns its folder.

        Args:
            frozen: tensors whose values were used, by name.

        Raises:
            CannotTell: it cannot be pickled, or needs too much space. OSError: the folder cannot be written to.
        """
        from txgraph.cache.adapter import dumps  # with all of Inductor: not where nothing is kept

        places, made = _Places(_tensors_of(model)), {name: digest_of(tensor) for name, tensor in frozen.items()}
        try:
            data = dumps((value, dict(frozen), made), places)
        except Exception as error:  # the objects that it holds decide what their pickling raises
            raise CannotTell(f"{type(error).__name__}: {error}") from error
        size = sum(tensor.untyped_storage().nbytes() for tensor in places.own)
        if size > MOST_BYTES:
            raise CannotTell(f"its graph holds {size >> 20} MB of new weights")
        parent = self.folder / key
        parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(dir=self.folder, prefix="writing-"))
        try:
            torch.save(places.own, work / _WEIGHTS)
            (work / _CALL).write_bytes(hashlib.sha256(data).digest() + data)
            final = parent / hashlib.sha256(data).hexdigest()[:16]
            if not final.exists():
                work.rename(final)
        finally:
            shutil.rmtree(work, ignore_errors=True)
        return final


class _Damaged(Exception):
    """A file is not what was written."""


class _Places:
    """Where the tensors of a graph are found again: in the model, by name, or in a file, by number."""

    def __init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self._names = {_identity(tensor): name for name, tensor in tensors.items()}
        self._numbers: dict[tuple[Any, ...], int] = {}
        self.own: list[torch.Tensor] = []

    def __call__(self, tensor: torch.Tensor) -> str | int:
        identity = _identity(tensor)
        if identity in self._names:
            return self._names[identity]
        if identity not in self._numbers:
            self._numbers[identity] = len(self.own)
            self.own.append(tensor.detach())
        return self._numbers[identity]


def _identity(tensor: torch.Tensor) -> tuple[Any, ...]:
    """Equal for two views of the same elements; empty tensors have no memory to tell them by."""
    memory = tensor.data_ptr() if tensor.numel() else id(tensor)
    return memory, tensor.dtype, tuple(tensor.shape), tensor.stride(), tensor.device


def _tensors_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return {**plain_tensors(model), **dict([*model.named_parameters(), *model.named_buffers()])}


def _read(folder: Path, tensors: Mapping[str, torch.Tensor]) -> Any:
    """The value; ``None`` if it is for other values of the model's tensors."""
    from txgraph.cache.adapter import loads

    stored = (folder / _CALL).read_bytes()
    digest, data = stored[:32], stored[32:]
    if hashlib.sha256(data).digest() != digest:
        raise _Damaged("its content has changed since")
    try:
        own = torch.load(folder / _WEIGHTS, mmap=True, weights_only=True)
    except RuntimeError as error:  # of torch's own file format
        raise _Damaged(str(error)) from error
    value, frozen, made = loads(data, _finder(tensors, own))
    if any(digest_of(tensor) != made[name] for name, tensor in frozen.items()):
        return None
    return value


def _finder(tensors: Mapping[str, torch.Tensor], own: list[torch.Tensor]) -> Callable[[Any], torch.Tensor]:
    return lambda place: tensors[place].detach() if isinstance(place, str) else own[place]


def default_folder() -> Path:
    """Where the environment says that the cache is."""
    given = os.environ.get("TXGRAPH_CACHE_DIR")
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(given).expanduser() if given else Path(base).expanduser() / "txgraph"
