"""Which backend serves ``backend="auto"``, and what to install where one is missing."""

from __future__ import annotations

import shutil
from importlib.metadata import entry_points

from txgraph.backends.base import Backend
from txgraph.backends.inductor import InductorBackend
from txgraph.backends.reference import ReferenceBackend
from txgraph.errors import BackendFailed

_BUILT_IN: dict[str, type[InductorBackend] | type[ReferenceBackend]] = {
    "inductor": InductorBackend,
    "reference": ReferenceBackend,
}


def choose_backend(name: str) -> Backend:
    """The backend of that name; other packages add theirs by the entry point group ``txgraph.backends``.

    Raises:
        BackendFailed: it needs something that is not installed; says what and how to get it.
    """
    wanted = "inductor" if name == "auto" else name
    if wanted in _BUILT_IN:
        if wanted == "inductor" and not _has_compiler():
            raise BackendFailed(
                "the inductor backend needs a C++ compiler and found none: install one (Debian, Ubuntu: "
                '`apt-get install g++`), or use backend="reference", which runs without compiling'
            )
        return _BUILT_IN[wanted]()
    plugins = {p.name: p for p in entry_points(group="txgraph.backends")}
    if wanted not in plugins:
        raise BackendFailed(f"no backend named {wanted!r}: there are {sorted([*_BUILT_IN, *plugins])}")
    backend: Backend = plugins[wanted].load()()
    return backend


def _has_compiler() -> bool:
    from torch._inductor import config

    return any(shutil.which(c) for c in (*config.cpp.cxx, "g++", "clang++") if c)
