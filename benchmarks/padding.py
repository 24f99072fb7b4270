"""From which share of tokens on packing pays: the packed graph against the dense one, at many densities.

    python -m benchmarks.padding

Both graphs of one model, in one process, take turns; times are medians, their ratio is what counts.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers

import txgraph
from benchmarks.turns import in_turn, milliseconds
from txgraph.bench.hardware import describe_hardware, versions
from txgraph.passes.padding.remove_padding import RemovePadding

RESULTS = Path(__file__).parent / "results" / "padding.json"
DENSITIES = (0.25, 0.5, 0.7, 0.8, 0.9, 0.95, 1.0)
ROUNDS = 9


def mask_of(density: float, batch: int, length: int) -> torch.Tensor:
    """Lengths that vary evenly around the density, as far as they can."""
    spread = min(density, 1 - density)
    lengths = (torch.linspace(density - spread, density + spread, batch) * length).round().clamp(1, length)
    return (torch.arange(length) < lengths[:, None]).long()


def compare(batch: int, length: int, layers: int = 4) -> list[dict[str, Any]]:
    """Milliseconds of BERT-base's layers with and without padding removed, by density."""
    torch.manual_seed(0)
    model = transformers.BertModel(transformers.BertConfig(num_hidden_layers=layers)).eval()
    ids = torch.randint(1, 1000, (batch, length))
    inputs = {"input_ids": ids, "attention_mask": mask_of(0.5, batch, length)}
    packing = txgraph.default_pipeline().without("remove-padding").append(RemovePadding(density=1.0))
    packed = txgraph.optimize(model, kwargs=inputs, padding="zeros", passes=packing, verify="final")
    dense = txgraph.optimize(model, kwargs=inputs, verify="final")
    found = []
    for density in DENSITIES:
        inputs["attention_mask"] = mask_of(density, batch, length)
        ways = {name: partial(fast, **inputs) for name, fast in (("packed", packed), ("dense", dense))}
        in_turn(ways, 1)
        medians = {name: milliseconds(each) for name, each in in_turn(ways, ROUNDS).items()}
        ratio = medians["dense"] / medians["packed"]
        found.append({"density": float(inputs["attention_mask"].double().mean()), **medians, "times_faster": ratio})
    assert len(packed.report.graphs) == len(dense.report.graphs) == 1, "a call took another graph"
    return found


def main() -> None:
    """The command line."""
    torch.set_grad_enabled(False)
    rows = []
    for batch, length in ((8, 128), (32, 32)):
        rows.append({"batch": batch, "length": length, "densities": compare(batch, length)})
        for each in rows[-1]["densities"]:
            print(
                f"{batch}x{length} density {each['density']:.2f}: packed {each['packed']:7.1f} ms, "
                f"dense {each['dense']:7.1f} ms, {each['times_faster']:.2f} times faster"
            )
    result = {"hardware": describe_hardware(), "versions": versions(), "rows": rows}
    RESULTS.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
