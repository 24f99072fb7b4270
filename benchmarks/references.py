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
    module, _, attribute = known.get(name, name).partition(":")
    if not attribute:
        raise ValueError(f"unknown name {name!r}: expected one of {sorted(known)}, or module:attribute")
    return getattr(importlib.import_module(module), attribute)
