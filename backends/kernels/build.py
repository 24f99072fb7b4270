"""Load what is written in C++, compiled for this machine. The private torch names that do it are in this file alone.

``tests/backends/kernels/test_build.py`` tells when they move.
"""

from __future__ import annotations

import ctypes
import logging
import os
import platform
import re
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import Any
from unittest import mock

from torch._inductor import config
from torch._inductor.codecache import CppCodeCache
from torch._inductor.cpu_vec_isa import VecISA, valid_vec_isa_list
from torch.backends import cpu

from txgraph.binaries import installed

log = logging.getLogger(__name__)

_FOLDER = Path(__file__).parent
_INCLUDE = re.compile(r'^#include "(.*)"$', re.MULTILINE)


def load(name: str) -> ctypes.CDLL:
    """The library of ``name.cpp`` beside this file, with this machine's vector instructions and torch's OpenMP.

    It was compiled with txgraph's installation, or is when it is first needed; see :func:`compiled`.

    Raises:
        RuntimeError: it has to be compiled, and there is no C++ compiler, or it fails.
    """
    return start(name).result()


def start(name: str) -> Future[ctypes.CDLL]:
    """The same, in another thread, for whoever needs it later."""
    if name not in _started:
        _started[name] = Future()
        threading.Thread(target=_run, args=(name, _started[name]), name=f"txgraph-{name}", daemon=True).start()
    return _started[name]


def wait() -> None:
    """Until all that was started is done: what Inductor finds out of this processor is not made for two threads."""
    for future in list(_started.values()):
        future.exception()


def _run(name: str, future: Future[ctypes.CDLL]) -> None:
    try:
        with _one_at_a_time:
            library = _load(name)
    except BaseException as error:  # handed to whoever loads the library
        future.set_exception(error)
    else:
        future.set_result(library)


def _after_fork() -> None:
    """The child has none of its parent's threads: what they had not finished is started again."""
    global _one_at_a_time
    _one_at_a_time = threading.Lock()
    for name in [name for name, future in _started.items() if not future.done()]:
        del _started[name]


_started: dict[str, Future[ctypes.CDLL]] = {}
_one_at_a_time = threading.Lock()
os.register_at_fork(after_in_child=_after_fork)


def _load(name: str) -> ctypes.CDLL:
    path = installed(name, _FOLDER)
    if path is not None:
        try:
            return ctypes.CDLL(str(path))
        except OSError as error:  # it was compiled on another system
            log.warning("%s is compiled anew: %s", name, error)
    return compiled(name)


def compiled(name: str) -> ctypes.CDLL:
    """The same, compiled here, now or before, by the compiler that Inductor uses. It is kept in Inductor's cache.

    Raises:
        RuntimeError: there is no C++ compiler, or it fails.
    """
    with config.patch(known_vectors()):
        library: ctypes.CDLL = CppCodeCache.load(source(name), device_type="cpu")
    return library


def known_vectors() -> dict[str, Any]:
    """Inductor's settings where torch itself runs vector code on this processor: then it need not try, for seconds.

    What it tries is whether programs with these instructions can be compiled and run. torch has found out the latter,
    and every compiler that is new enough for torch's headers knows them; those for AMX may be newer, and are tried.
    """
    if platform.machine() != "x86_64" or cpu.get_cpu_capability() not in ("AVX2", "AVX512"):
        return {}
    known = {"cpp.vec_isa_ok": True}
    tried = VecISA.check_build
    with (
        config.patch(known),
        mock.patch.object(VecISA, "check_build", lambda isa, code: "amx" not in str(isa) or tried(isa, code)),
    ):
        valid_vec_isa_list()  # which it remembers
    return known


def source(name: str) -> str:
    """The text of ``name.cpp`` with what it includes from this folder: the compiler sees one file."""
    included = set[str]()

    def text(file: str) -> str:
        if file in included:
            return ""
        included.add(file)
        return _INCLUDE.sub(lambda match: text(match[1]), (_FOLDER / file).read_text(encoding="utf-8"))

    return text(f"{name}.cpp")
