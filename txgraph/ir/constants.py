"""The tensors a graph owns: parameters, buffers and values folded from them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import torch


@dataclass
class ConstantStore(Mapping[str, torch.Tensor]):
    """Constants by name; each tensor is held once, whichever names the model gives it.

    Parameters and buffers are the model's own tensors, never copies. A value folded from them
    remembers its ``sources``, so that a later in-place change of one is noticed.

    Attributes:
        tensors: constant name to tensor.
        sources: name of a folded constant to the names of the model tensors it was made from.
        observed: model tensors whose *values* a rewrite has looked at.
    """

    tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    sources: dict[str, frozenset[str]] = field(default_factory=dict)
    observed: set[str] = field(default_factory=set)

    def __getitem__(self, name: str) -> torch.Tensor:
        return self.tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    def add_folded(self, name: str, tensor: torch.Tensor, made_from: Iterable[str]) -> str:
        """Add a value computed from other constants; returns the (unique) name it got."""
        unique, suffix = name, 0
        while unique in self.tensors:
            suffix += 1
            unique = f"{name}_{suffix}"
        self.tensors[unique] = tensor
        self.sources[unique] = self.origins(made_from)
        return unique

    def observe(self, names: Iterable[str]) -> None:
        """Record that a rewrite depends on the values of these constants."""
        self.observed |= self.origins(names)

    def origins(self, names: Iterable[str]) -> frozenset[str]:
        """The model tensors that the named constants are, or were made from."""
        return frozenset(o for name in names for o in self.sources.get(name, (name,)))

    def frozen_values(self) -> frozenset[str]:
        """Model tensors whose values are baked into the graph: a change of one makes it stale."""
        return frozenset(self.observed).union(*self.sources.values())

    def copy(self) -> ConstantStore:
        """A store that can be changed apart from this one; the tensors themselves are shared."""
        return ConstantStore(dict(self.tensors), dict(self.sources), set(self.observed))

    def nbytes(self) -> int:
        """Total size in bytes, shared storage counted once."""
        storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in self.tensors.values()}
        return sum(storages.values())
