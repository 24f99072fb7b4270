"""Data whose fields are choices: how they are drawn at random, made simpler, and written in another form.

A field made by :func:`one_of` lists its values, the simplest first. In one made by :func:`form` all values mean the
same: they differ in how it is written. A field made by :func:`part` holds data of the same kind.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

T = TypeVar("T", bound="Choices")

_FEW = 12  # values: with more of them all are drawn equally often


def one_of(first: Any, *others: Any) -> Any:
    """A field with one of these values; the first is the simplest."""
    return field(default=first, metadata={"values": (first, *others)})


def form(first: Any, *others: Any) -> Any:
    """A field whose values are mathematically the same."""
    return field(default=first, metadata={"values": (first, *others), "alike": True})


def part(*kinds: type[Choices]) -> Any:
    """A field that holds data of one of these classes; the first is the simplest."""
    return field(default_factory=kinds[0], metadata={"kinds": kinds})


@dataclass(frozen=True)
class Choices:
    """Frozen data of fields that are choices, or parts made of choices."""

    @classmethod
    def draw(cls: type[T], rng: random.Random, plain: float = 0.3) -> T:
        """All fields at random; those that are no forms have the simplest value at least as often as ``plain`` says."""
        drawn: dict[str, Any] = {}
        for each in fields(cls):
            if "kinds" in each.metadata:
                drawn[each.name] = rng.choice(each.metadata["kinds"]).draw(rng, plain)
            else:
                values: Sequence[Any] = each.metadata["values"]
                simplest = "alike" not in each.metadata and len(values) <= _FEW and rng.random() < plain
                drawn[each.name] = values[0] if simplest else rng.choice(values)
        return cls(**drawn)

    def settled(self, full_rows: bool) -> frozenset[str]:
        """Fields of forms that are not the same here; ``full_rows``: queries may see no key."""
        return frozenset()

    def rewritten(self: T, rng: random.Random, full_rows: bool = False) -> T:
        """The same in another form."""
        drawn: dict[str, Any] = {n: inner.rewritten(rng, full_rows) for n, inner in self.parts()}
        for each in fields(self):
            if each.metadata.get("alike") and each.name not in self.settled(full_rows):
                drawn[each.name] = rng.choice(each.metadata["values"])
        return replace(self, **drawn)

    def parts(self) -> Iterator[tuple[str, Choices]]:
        """The fields that hold choices themselves, by their names."""
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(value, Choices):
                yield each.name, value

    def simpler(self: T) -> Iterator[T]:
        """The same with one field simpler, the simplest value of each field first."""
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(value, Choices):
                plain = each.metadata["kinds"][0]()
                if value != plain:
                    yield replace(self, **{each.name: plain})
                yield from (replace(self, **{each.name: inner}) for inner in value.simpler())
            elif "values" in each.metadata:
                before = each.metadata["values"].index(value)
                yield from (replace(self, **{each.name: other}) for other in each.metadata["values"][:before])

    def chosen(self) -> Iterator[tuple[str, str, Any]]:
        """Class, field and value of every choice made here and in the parts."""
        for each in dataclasses.fields(self):
            value = getattr(self, each.name)
            if isinstance(value, Choices):
                yield (type(self).__name__, each.name, type(value).__name__)
                yield from value.chosen()
            elif "values" in each.metadata:
                yield (type(self).__name__, each.name, value)
