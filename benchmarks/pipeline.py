"""How the time of the passes grows with the graph: ``python -m benchmarks.pipeline --layers 12 48 200``.

A decoder with softly capped scores in decomposed attention, on one core: the default pipeline, without checks. Weights
are tiny: passes look at graphs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from typing import Any

import torch
import transformers
from rich.table import Table

import txgraph
from benchmarks.table import wide_console
from txgraph import PassContext
from txgraph.bench.hardware import describe_hardware, versions
from txgraph.capture import capture
from txgraph.ir import Graph


def deep_decoder(layers: int) -> Graph:
    """The captured graph of a decoder of that many layers."""
    config = transformers.Gemma2Config(
        vocab_size=100,
        hidden_size=32,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        intermediate_size=64,
        attn_implementation="eager",
        use_cache=False,
    )
    ids = torch.zeros(2, 16, dtype=torch.long)
    return capture(transformers.Gemma2Model(config).eval(), (), {"input_ids": ids}).graph


def measure(layers: Sequence[int], rounds: int) -> dict[str, Any]:
    """Seconds of the default pipeline for each depth; the graphs take turns."""
    torch.set_num_threads(1)
    graphs = {depth: deep_decoder(depth) for depth in layers}
    texts: dict[int, set[str]] = {depth: set() for depth in layers}
    seconds: dict[int, list[float]] = {depth: [] for depth in layers}
    slowest: dict[int, dict[str, float]] = {}
    sizes: dict[int, int] = {}
    for _ in range(rounds):
        for depth, graph in graphs.items():
            started = time.perf_counter()
            after, records = txgraph.default_pipeline().run(graph, PassContext())
            seconds[depth].append(time.perf_counter() - started)
            texts[depth].add(str(after))
            sizes[depth] = len(after)
            longest = sorted(records, key=lambda record: -record.seconds)[:5]
            slowest[depth] = {record.name: record.seconds for record in longest}
    return {
        "hardware": describe_hardware(),
        "versions": versions(),
        "settings": {"rounds": rounds, "threads": 1},
        "rows": [
            {
                "layers": depth,
                "nodes_before": len(graph),
                "nodes_after": sizes[depth],
                "median_seconds": statistics.median(seconds[depth]),
                "seconds": seconds[depth],
                "microseconds_per_node": 1e6 * statistics.median(seconds[depth]) / len(graph),
                "same_result_each_time": len(texts[depth]) == 1,
                "slowest_passes": slowest[depth],
            }
            for depth, graph in graphs.items()
        ],
    }


def main() -> None:
    """The command line; prints a table, then the result as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, nargs="+", default=[12, 48, 200])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    result = measure(options.layers, options.rounds)
    table = Table("layers", "nodes", "after", "seconds", "µs a node", "same result")
    for row in result["rows"]:
        numbers = (row["layers"], row["nodes_before"], row["nodes_after"])
        same = "yes" if row["same_result_each_time"] else "NO"
        times = f"{row['median_seconds']:.2f}", f"{row['microseconds_per_node']:.0f}"
        table.add_row(*map(str, numbers), *times, same)
    wide_console().print(table)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
