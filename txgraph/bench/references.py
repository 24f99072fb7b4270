"""Things that worker processes import by name: ``"module:attribute"``, with keyword arguments where it is called."""

from __future__ import annotations

import functools
import importlib
import json
from collections.abc import Mapping
from typing import Any


def resolve(name: str, known: Mapping[str, str]) -> str:
    """The reference of ``name``: that of the table, or ``name`` if it is one itself. Nothing is imported.

    Raises:
        ValueError: it is neither.
    """
    if name not in known and ":" not in name:
        raise ValueError(f"unknown name {name!r}: expected one of {sorted(known)}, or module:attribute")
    return known.get(name, name)


def with_arguments(reference: str, **arguments: Any) -> str:
    """A reference to a function or class with keyword arguments, which are plain data.

    >>> with_arguments("fractions:Fraction", numerator=3)
    'fractions:Fraction {"numerator": 3}'
    """
    return f"{reference} {json.dumps(arguments)}"


def look_up(reference: str) -> Any:
    """What a reference names; with arguments: that, to be called without any.

    >>> look_up('fractions:Fraction {"numerator": 3}')()
    Fraction(3, 1)
    """
    target, _, arguments = reference.partition(" ")
    module, _, attribute = target.partition(":")
    found = getattr(importlib.import_module(module), attribute)
    return functools.partial(found, **json.loads(arguments)) if arguments else found
