"""The parent's end of a worker process."""

from __future__ import annotations

import contextlib
import json
import math
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

from txgraph.errors import TxgraphError


class WorkerFailed(TxgraphError):
    """A worker answered that it failed, or ended; the message says why."""


class Worker:
    """A process that runs one competitor on one row. It works only while it is asked something.

    It has its own folder for all that compilers cache, so that every compilation is cold; the folder is removed
    at the end.

    Args:
        row: reference of a :class:`Row`, or of a function that gives one. competitor: of a :class:`Competitor` class.
        threads: that torch uses, and whatever else asks OpenMP. name: of the competitor, before it has told it.
    """

    def __init__(self, row: str, competitor: str, threads: int, name: str = "") -> None:
        self.name = name or competitor
        self._folder = tempfile.TemporaryDirectory(prefix="benchmark-")
        folder = Path(self._folder.name)
        self._log = folder / "log.txt"
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
            "OMP_NUM_THREADS": str(threads),
            "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor"),
            "TRITON_CACHE_DIR": str(folder / "triton"),
            "TXGRAPH_CACHE_DIR": str(folder / "txgraph"),
            "HF_HUB_OFFLINE": "1",
        }
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "txgraph.bench.worker", row, competitor, str(threads), str(folder)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
                text=True,
            )

    def ask(self, command: str, limit: float = math.inf, **arguments: Any) -> dict[str, Any]:
        """Give a command and wait for its answer: :meth:`tell`, then :meth:`answer`."""
        self.tell(command, **arguments)
        return self.answer(limit)

    def tell(self, command: str, **arguments: Any) -> None:
        """Give a command; where the process has ended, its answer will say so."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps({"do": command, **arguments}), file=self._process.stdin, flush=True)

    def answer(self, limit: float = math.inf) -> dict[str, Any]:
        """Wait for the answer to a command, for ``limit`` seconds.

        Raises:
            WorkerFailed: the command failed, the process ended, or its time was up; then it is ended.
        """
        assert self._process.stdout is not None
        overdue = threading.Event()
        watch = threading.Timer(min(limit, threading.TIMEOUT_MAX), self._end, [overdue])
        watch.daemon = True
        watch.start()
        line = self._process.stdout.readline()
        watch.cancel()
        if overdue.is_set():
            raise WorkerFailed(f"no answer after {limit:.0f} s")
        if not line:
            code = self._process.wait()
            raise WorkerFailed(f"the process ended with code {code}: {self._last_words()}")
        answer: dict[str, Any] = json.loads(line)
        if "failed" in answer:
            raise WorkerFailed(answer["failed"])
        return answer

    def close(self) -> None:
        """End the process and remove its folder."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.close()
            self._process.wait(timeout=20)
        except (BrokenPipeError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._folder.cleanup()

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _end(self, overdue: threading.Event) -> None:
        overdue.set()
        self._process.kill()

    def _last_words(self) -> str:
        lines = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return lines[-1] if lines else "it printed nothing"
