"""What weights in 8 and 4 bits do to the perplexity of a language model that is trained here.

    python -m benchmarks.perplexity

The byte GPT-2 of examples/prune_and_fine_tune.py learns the documentation that ships with Python; perplexity is that of
a byte of text which is held out. Every linear is rewritten by hand, also where that saves no time here.
"""

from __future__ import annotations

import argparse
import json
import math
import runpy
from pathlib import Path

import torch
from transformers import GPT2LMHeadModel

import txgraph
from txgraph.passes import Int8, WeightOnly

EXAMPLE = Path(__file__).parent.parent / "examples" / "prune_and_fine_tune.py"
RESULTS = Path(__file__).parent / "results" / "perplexity.json"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.perplexity", description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=1500)
    given = parser.parse_args()
    example = runpy.run_path(str(EXAMPLE))
    torch.manual_seed(0)
    learned, held_out = example["sequences"]()
    model = GPT2LMHeadModel(example["CONFIG"])
    example["train"](model, learned, steps=given.steps, rate=6e-3)
    exact = example["loss_of"](model, held_out)
    print(f"perplexity {math.exp(exact):.4f} after {given.steps} steps")
    calibration = [{"input_ids": batch} for batch in learned[:512].split(32)]
    results = {"steps": given.steps, "perplexity": math.exp(exact), "change": {}}
    for method in (WeightOnly(bits=8), Int8(), WeightOnly(bits=4)):
        fast = txgraph.optimize(
            model,
            kwargs={"input_ids": held_out[:64]},
            passes=txgraph.default_pipeline().append(method),
            budget=txgraph.Budget(relative_error=0.9),
            calibration=calibration,
        )
        spending = fast.report.budget
        assert spending is not None, "there is a budget"
        change = math.exp(example["loss_of"](fast, held_out) - exact) - 1
        results["change"][method.label] = change
        print(f"{method.label}: {len(spending.spent)} linears, logits {spending.held_out}; perplexity {change:+.3%}")
    RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
