"""Functions at the same time, each in a thread of its own."""

from __future__ import annotations

import threading
from typing import Any


def in_threads(*functions: Any) -> list[Any]:
    """What the functions give, each in its own thread; what one raises is given, too."""
    results: list[Any] = [None] * len(functions)
    start = threading.Barrier(len(functions))

    def run(at: int) -> None:
        start.wait()
        try:
            results[at] = functions[at]()
        except Exception as error:  # handed to the test, which compares it with what it wants
            results[at] = error

    threads = [threading.Thread(target=run, args=(at,)) for at in range(len(functions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert not any(thread.is_alive() for thread in threads)
    return results
