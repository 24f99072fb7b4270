"""The process that generates code: started early, asked for each graph, and given up where it crashes or hangs."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from txgraph.backends.tvm import codegen
from txgraph.errors import BackendFailed

SECONDS = 300.0  # for a graph; TVM and nvcc take one or two for most
LAST_WORDS = 2000  # letters


class Worker:
    """A process that imports TVM at once, and then compiles what it is asked to.

    Args:
        script: what it runs, see :func:`txgraph.backends.tvm.codegen.serve`.
    """

    def __init__(self, script: str) -> None:
        self._log = tempfile.TemporaryFile("w+b")  # noqa: SIM115  # as long as the process
        self._process = subprocess.Popen(
            # -P: the files beside the script are no packages that others mean by these names
            [sys.executable, "-P", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)},
            text=True,
        )

    def compile_folder(self, folder: Path, seconds: float) -> None:
        """As :func:`txgraph.backends.tvm.codegen.compile_folder`, in the process.

        Raises:
            BackendFailed: it failed, took longer, or ended, with its last words.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        overdue = threading.Event()
        watch = threading.Timer(seconds, self._give_up, [overdue])
        watch.daemon = True
        watch.start()
        with contextlib.suppress(BrokenPipeError):
            print(folder, file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        watch.cancel()
        if overdue.is_set():
            raise BackendFailed(f"TVM did not generate code within {seconds:.0f} s: {self._last_words()}")
        if not line:
            raise BackendFailed(f"TVM crashed as it generated code ({self._ended()}): {self._last_words()}")
        failed = json.loads(line).get("failed")
        if failed:
            raise BackendFailed(f"TVM failed on this graph: {failed}")

    @property
    def is_running(self) -> bool:
        """Whether it can be asked."""
        return self._process.poll() is None

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()

    def _give_up(self, overdue: threading.Event) -> None:
        overdue.set()
        self._process.kill()

    def _ended(self) -> str:
        code = self._process.wait()
        return f"signal {-code}" if code < 0 else f"exit code {code}"

    def _last_words(self) -> str:
        self._log.seek(0)
        said = self._log.read().decode(errors="replace").strip()
        return said[-LAST_WORDS:] or "it said nothing"


def start() -> None:
    """Have the process import TVM, for whoever needs it later."""
    with _lock:
        _running()


def compile_folder(folder: Path, seconds: float = SECONDS) -> None:
    """Compile what is in a folder, one at a time; see :meth:`Worker.compile_folder`."""
    with _lock:
        _running().compile_folder(folder, seconds)


def _running() -> Worker:
    global _worker
    if _worker is None or not _worker.is_running:
        _worker = Worker(codegen.__file__)
    return _worker


def _after_fork() -> None:
    """The process is the parent's: the child asks one of its own."""
    global _lock, _worker
    _lock, _worker = threading.Lock(), None


_worker: Worker | None = None
_lock = threading.Lock()
os.register_at_fork(after_in_child=_after_fork)
