"""A decoder whose layers see a window of 256 tokens, by the length of the sequence.

    python -m benchmarks.windows

Eager, torch.compile, txgraph, and txgraph without the pass that recognises windows (the mask is then made, and read),
all in one process, take turns; times are medians, their ratio is what counts.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers

import txgraph
from benchmarks.turns import in_turn, milliseconds, times_faster
from txgraph.bench.hardware import describe_hardware, versions

RESULTS = Path(__file__).parent / "results" / "windows.json"
WINDOW = 256
LENGTHS = (512, 1024, 2048, 4096, 8192)


def decoder() -> torch.nn.Module:
    """Of the shape of Mistral, and small: 4 layers of 8 heads of 64, two of keys."""
    torch.manual_seed(0)
    config = transformers.MistralConfig(
        vocab_size=4096,
        hidden_size=512,
        intermediate_size=1536,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=2,
        sliding_window=WINDOW,
        use_cache=False,
    )
    return transformers.MistralModel(config).eval()


def ways(model: torch.nn.Module, inputs: Mapping[str, torch.Tensor]) -> dict[str, Callable[..., Any]]:
    """All that are compared, by name, compiled for these inputs."""
    options = {"kwargs": inputs, "verify": "off"}  # float64 of such lengths takes minutes; errors are in the result
    without = txgraph.default_pipeline().without("recognize-windows")
    made = {
        "eager": model,
        "torch.compile": torch.compile(model),
        "txgraph, masks": txgraph.optimize(model, passes=without, **options),
        "txgraph": txgraph.optimize(model, **options),
    }
    count = made["txgraph"].graph_after.count()
    assert count["txgraph::window_attention"] == 4, count
    return made


def compare(length: int, rounds: int) -> dict[str, Any]:
    """Milliseconds of each way, and how far each is from eager."""
    model = decoder()
    inputs = {"input_ids": torch.randint(0, 4096, (1, length))}
    calls = ways(model, inputs)
    exact = model(**inputs).last_hidden_state
    errors = {
        n: float((c(**inputs).last_hidden_state - exact).abs().max() / exact.abs().max()) for n, c in calls.items()
    }
    seconds = in_turn({name: partial(call, **inputs) for name, call in calls.items()}, rounds)
    ratios = {name: times_faster(each, seconds["txgraph"]) for name, each in seconds.items()}
    medians = {name: milliseconds(each) for name, each in seconds.items()}
    return {"length": length, "milliseconds": medians, "txgraph_times_faster": ratios, "errors": errors}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.windows", description=__doc__.split("\n")[0])
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.set_grad_enabled(False)
    rows = []
    for length in given.lengths:
        torch._dynamo.reset()
        rows.append(compare(length, given.rounds))
        print(json.dumps(rows[-1]), flush=True)
    result = {"hardware": describe_hardware(), "versions": versions(), "threads": given.threads, "window": WINDOW}
    RESULTS.write_text(json.dumps({**result, "rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
