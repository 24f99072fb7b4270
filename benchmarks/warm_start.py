"""Seconds of ``optimize()`` in a process that finds nothing on disk, and in later ones.

    python -m benchmarks.warm_start

Cold: all caches of compilers are empty. Recompiled: Inductor's are full. Warm: txgraph's is, too. Beside torch.compile,
cold and with full caches. Each in a process of its own, in turn; making the model and its first call do not count.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

RESULT = Path(__file__).parent / "results" / "warm_start.json"
KINDS = ("cold", "recompiled", "warm", "torch.compile, cold", "torch.compile, again")


def child(kind: str) -> dict[str, float]:
    """In a process of its own: make BERT-base, call it, optimize it."""
    import torch
    import transformers

    torch.manual_seed(0)
    model = transformers.BertModel(transformers.BertConfig()).eval()
    ids = torch.randint(0, 1000, (1, 128))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    with torch.no_grad():
        model(**inputs)
        started = time.perf_counter()
        if kind.startswith("torch.compile"):
            torch.compile(model)(**inputs)
            return {"seconds": time.perf_counter() - started}
        import txgraph

        imported = time.perf_counter()
        fast = txgraph.optimize(model, kwargs=inputs)
        done = time.perf_counter()
    (graph,) = fast.report.graphs
    assert bool(graph.cached) == (kind == "warm"), kind
    return {"seconds": done - started, "import": imported - started, **graph.seconds}


def measure(rounds: int, threads: int) -> dict[str, list[dict[str, float]]]:
    """Every kind in each round: what one leaves on disk is what the next finds."""
    runs: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            for kind in KINDS:
                own = "torch" if kind.startswith("torch.compile") else "txgraph"
                environment = {
                    **os.environ,
                    "OMP_NUM_THREADS": str(threads),
                    "TORCHINDUCTOR_CACHE_DIR": f"{folder}/inductor-{own}",
                    "TXGRAPH_CACHE_DIR": f"{folder}/txgraph" if kind != "recompiled" else f"{folder}/other",
                }
                environment.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed package has its bytecode
                command = [sys.executable, "-W", "ignore", "-m", "benchmarks.warm_start", "--child", kind]
                done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
                runs[kind].append(json.loads(done.stdout.splitlines()[-1]))
    return runs


def main() -> None:
    """Measure, print a table and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--child", choices=KINDS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(child(arguments.child)))
        return
    # Not at the top: they import txgraph, and the child times that.
    from rich.table import Table

    from benchmarks.table import wide_console
    from txgraph.bench.hardware import describe_hardware, versions

    runs = measure(arguments.rounds, arguments.threads)
    stages = ("import", "load", "capture", "passes", "verify", "lower")
    table = Table("BERT-base 1x128", "seconds", *stages)
    medians: dict[str, dict[str, Any]] = {}
    for kind, each in runs.items():
        medians[kind] = {key: statistics.median(run[key] for run in each) for key in each[0]}
        times = [f"{medians[kind][key]:.2f}" if key in medians[kind] else "" for key in ("seconds", *stages)]
        table.add_row(kind, *times)
    wide_console().print(table)
    result = {"hardware": describe_hardware(), "versions": versions(), "median_seconds": medians, "runs": runs}
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
