"""Which backend serves ``backend="auto"``, and what to install where one is missing."""

from __future__ import annotations

import shutil
from importlib.metadata import EntryPoint, entry_points

from txgraph.backends.base import Backend
from txgraph.backends.inductor import InductorBackend
from txgraph.backends.reference import ReferenceBackend
from txgraph.backends.tvm import TvmBackend
from txgraph.backends.tvm.lower import MISSING, is_installed
from txgraph.errors import BackendFailed

_BUILT_IN: dict[str, type[InductorBackend] | type[ReferenceBackend] | type[TvmBackend]] = {
    "inductor": InductorBackend,
    "tvm": TvmBackend,
    "reference": ReferenceBackend,
}


def choose_backend(name: str) -> Backend:
    """The backend of that name, one of :func:`backend_names`.

    Other packages add theirs by the entry point group ``txgraph.backends``.

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
        if wanted == "tvm" and not is_installed():
            raise BackendFailed(MISSING)
        return _BUILT_IN[wanted]()
    backend: Backend = _plugins()[wanted].load()()
    return backend


def backend_names() -> list[str]:
    """Everything that ``optimize(backend=...)`` takes here."""
    return ["auto", *_BUILT_IN, *sorted(_plugins())]


def _plugins() -> dict[str, EntryPoint]:
    return {p.name: p for p in entry_points(group="txgraph.backends")}


def _has_compiler() -> bool:
    from torch._inductor import config

    return any(shutil.which(c) for c in (*config.cpp.cxx, "g++", "clang++") if c)
