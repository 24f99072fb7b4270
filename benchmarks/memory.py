"""Peak memory of compiling, over that of running eager once.

    python -m benchmarks.memory --rows bert-base-1x128 --competitors torch.compile txgraph

Each competitor has a fresh process, one after the other. The baseline is a process that makes the model and runs
eager once. Processes that a compiler starts (such as g++) are not counted.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

from rich.table import Table

from benchmarks.competitors import COMPETITORS
from benchmarks.rows import ROWS
from benchmarks.table import MB, wide_console
from txgraph.bench import Worker, resolve
from txgraph.bench.hardware import describe_hardware, versions


def measure(row: str, competitors: Sequence[str], threads: int) -> dict[str, Any]:
    """Bytes: of the weights, of the baseline's peak, and of each competitor's peak over the baseline.

    Raises:
        WorkerFailed: a competitor cannot compile this row.
    """
    at = resolve(row, ROWS)
    with Worker(at, COMPETITORS["eager"], threads) as worker:
        weights = worker.ask("hello")["weights_bytes"]
        baseline = worker.ask("build")["rss_bytes"]
    found: dict[str, Any] = {"weights_bytes": weights, "baseline_bytes": baseline, "competitors": {}}
    for competitor in competitors:
        with Worker(at, resolve(competitor, COMPETITORS), threads) as worker:
            memory = worker.ask("build")["rss_bytes"]
        over = memory["after_compile"] - baseline["after_compile"]
        held = memory["held_after_compile"]
        found["competitors"][competitor] = {
            "peak_bytes": memory["after_compile"],
            "peak_over_baseline_bytes": over,
            "peak_over_baseline_in_weights": over / weights,
            "held_over_baseline_bytes": None if held is None else held - baseline["held_after_compile"],
        }
    return found


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """The command line; prints a table, then the result as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__.split("\n")[0])
    parser.add_argument("--rows", nargs="+", default=["bert-base-1x128"])
    parser.add_argument("--competitors", nargs="+", default=["torch.compile", "txgraph"])
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args(arguments)
    console = wide_console()
    result: dict[str, Any] = {
        "hardware": describe_hardware(),
        "versions": versions(),
        "settings": {"threads": given.threads},
        "rows": {},
    }
    for row in given.rows:
        found = result["rows"][row] = measure(row, given.competitors, given.threads)
        weights = found["weights_bytes"]
        baseline = found["baseline_bytes"]["after_compile"]
        table = Table(
            "competitor",
            "peak MB",
            "over eager MB",
            "over eager, × weights",
            "held after, over eager MB",
            title=f"{row}: {weights / MB:.0f} MB of weights; eager once peaks at {baseline / MB:.0f} MB",
        )
        for name, each in found["competitors"].items():
            held = each["held_over_baseline_bytes"]
            table.add_row(
                name,
                f"{each['peak_bytes'] / MB:.0f}",
                f"{each['peak_over_baseline_bytes'] / MB:.0f}",
                f"{each['peak_over_baseline_in_weights']:.2f}",
                "" if held is None else f"{held / MB:.0f}",
            )
        console.print(table)
    print(json.dumps(result))
    return result


if __name__ == "__main__":
    main()
