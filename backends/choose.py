"""Which backend serves ``backend="auto"``, and what to install where one is missing."""

from __future__ import annotations

import shutil
from importlib.metadata import EntryPoint, entry_points

from txgraph.backends.base import Backend
from txgraph.errors import BackendFailed

_GROUP = "txgraph.backends"
_BUILT_IN = {  # named, not imported: importing Inductor takes as long as importing all of txgraph
    "inductor": "txgraph.backends.inductor:InductorBackend",
    "tvm": "txgraph.backends.tvm:TvmBackend",
    "reference": "txgraph.backends.reference:ReferenceBackend",
}


def choose_backend(name: str) -> Backend:
    """The backend of that name, one of :func:`backend_names`.

    Other packages add theirs by the entry point group ``txgraph.backends``.

    Raises:
        BackendFailed: it needs something that is not installed; says what and how to get it.
    """
    if name == "auto":
        return _auto()
    if name == "inductor" and not _has_compiler():
        raise BackendFailed(
            "the inductor backend needs a C++ compiler and found none: install one (Debian, Ubuntu: "
            '`apt-get install g++`), or use backend="reference", which runs without compiling'
        )
    if name == "tvm":
        _check_tvm()
    backend: Backend = _all()[name].load()()
    return backend


def _auto() -> Backend:
    """Inductor and TVM by measurement; without TVM Inductor, which needs no measuring."""
    from txgraph.backends.tvm.lower import is_installed

    inductor = choose_backend("inductor")
    if not is_installed():
        return inductor
    from txgraph.backends.auto import AutoBackend

    return AutoBackend((inductor, choose_backend("tvm")))


def backend_names() -> list[str]:
    """Everything that ``optimize(backend=...)`` takes here."""
    return ["auto", *_all()]


def _all() -> dict[str, EntryPoint]:
    own = {name: EntryPoint(name, path, _GROUP) for name, path in _BUILT_IN.items()}
    others = sorted(entry_points(group=_GROUP), key=lambda each: each.name)
    return own | {each.name: each for each in others if each.name not in own}


def _check_tvm() -> None:
    from txgraph.backends.tvm.lower import MISSING, is_installed

    if not is_installed():
        raise BackendFailed(MISSING)


def _has_compiler() -> bool:
    from torch._inductor import config

    return any(shutil.which(c) for c in (*config.cpp.cxx, "g++", "clang++") if c)
