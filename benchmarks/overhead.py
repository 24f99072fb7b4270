"""What an optimized model costs per call beside its compiled code: binding, guards, checks of the weights.

    python -m benchmarks.overhead

Times ``fast(x)`` against the compiled function inside it, and against eager for scale, in turn; on one linear with
a gelu, and on a small BERT with 12 layers, whose 200 parameters are all guarded.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import transformers
from rich.table import Table
from torch import nn

import txgraph
from benchmarks.table import wide_console
from txgraph.bench.hardware import describe_hardware, versions


def tiny() -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """``gelu(linear(x))`` on 8 values."""
    return nn.Sequential(nn.Linear(8, 8), nn.GELU()).eval(), {"input": torch.randn(4, 8)}


def many_parameters() -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """A BERT of 12 layers, 32 wide."""
    config = transformers.BertConfig(
        vocab_size=100,
        hidden_size=32,
        num_hidden_layers=12,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=16,
    )
    return transformers.BertModel(config).eval(), {"input_ids": torch.randint(0, 100, (1, 8))}


def measure(model: nn.Module, inputs: Mapping[str, torch.Tensor], rounds: int, round_seconds: float) -> dict[str, Any]:
    """Microseconds per call; every number is the median over the rounds."""
    fast = txgraph.optimize(model, kwargs=inputs)
    compiled = fast._compiled[-1].compiled
    tensors = fast._signature.flatten((), inputs).tensors
    functions: dict[str, Callable[[], object]] = {
        "eager": lambda: model(**inputs),
        "optimized": lambda: fast(**inputs),
        "compiled": lambda: compiled.run(tensors),
    }
    per_call: dict[str, list[float]] = {name: [] for name in functions}
    calls = {name: _calls_in(function, round_seconds) for name, function in functions.items()}
    gc.disable()
    for _ in range(rounds):
        for name, function in functions.items():
            per_call[name].append(_microseconds(function, calls[name]))
    gc.enable()
    overheads = [o - c for o, c in zip(per_call["optimized"], per_call["compiled"], strict=True)]
    return {
        "parameters": len(list(model.parameters())),
        "microseconds": {name: statistics.median(times) for name, times in per_call.items()},
        "overhead_microseconds": statistics.median(overheads),
        "rounds": per_call,
    }


def _calls_in(function: Callable[[], object], seconds: float) -> int:
    """How many calls take about so long; warms up on the way."""
    for _ in range(20):
        function()
    return max(10, int(seconds / (_microseconds(function, 50) * 1e-6)))


def _microseconds(function: Callable[[], object], calls: int) -> float:
    started = time.perf_counter()
    for _ in range(calls):
        function()
    return (time.perf_counter() - started) / calls * 1e6


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """The command line; prints a table, then the result as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overhead", description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--round-seconds", type=float, default=0.02, help="of each function in each round")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    result: dict[str, Any] = {
        "hardware": describe_hardware(),
        "versions": versions(),
        "settings": vars(given),
        "models": {},
    }
    table = Table("model", "parameters", "eager µs", "optimized µs", "its compiled code µs", "overhead µs")
    with torch.no_grad():
        for make in (tiny, many_parameters):
            found = measure(*make(), given.rounds, given.round_seconds)
            result["models"][make.__name__] = found
            times = [f"{each:.1f}" for each in found["microseconds"].values()]
            table.add_row(make.__name__, str(found["parameters"]), *times, f"{found['overhead_microseconds']:.1f}")
    wide_console().print(table)
    print(json.dumps(result))
    return result


if __name__ == "__main__":
    main()
