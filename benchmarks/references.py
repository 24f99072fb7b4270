"""Things that worker processes look up by name: ``"module:attribute"``."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any


def look_up(name: str, known: Mapping[str, str]) -> Any:
    """The object called ``name``: a key of ``known``, or itself a reference ``"module:attribute"``.

    Raises:
        ValueError: it is neither.
    """
    check_name(name, known)
    module, _, attribute = known.get(name, name).partition(":")
    return getattr(importlib.import_module(module), attribute)


def check_name(name: str, known: Mapping[str, str]) -> None:
    """Before anything is imported.

    Raises:
        ValueError: ``name`` is neither a key of ``known`` nor a reference ``"module:attribute"``.
    """
    if name not in known and ":" not in name:
        raise ValueError(f"unknown name {name!r}: expected one of {sorted(known)}, or module:attribute")
