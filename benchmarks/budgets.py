"""Are budgets kept on data that nobody has seen? Fifty runs: five architectures, ten seeds of weights and data.

    python -m benchmarks.budgets --limit 0.005 --seeds 10

Models are small, with random weights, so that nothing lossy is faster; the search is told that each method is, by a
factor. So each run goes as near to its limit as the search dares. Calls are judged against the model in float64, on
data of another seed than the calibration.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

import txgraph
from txgraph import compression
from txgraph.cost import Measurement
from txgraph.pipeline import PassResult

RESULTS = Path(__file__).parent / "results" / "budgets.json"
SIZES = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
Inputs = dict[str, torch.Tensor]
SHARES = {"int8": 0.3, "bfloat16": 0.6, "weight-only": 0.5, "low-rank": 0.2, "prune-channels": 0.8, "prune-heads": 0.8}


class Claimed:
    """Stands for the stopwatch: each rewrite takes that share of what it replaces."""

    def __init__(self, *_: object) -> None: ...

    def times(self, result: PassResult) -> Iterator[tuple[str, Measurement]]:
        """All take as long before."""
        for rewrite in result.rewrites:
            yield rewrite.root, Measurement(rewrite.rule, rewrite.root, 1e-3, 1e-3 * SHARES[rewrite.rule])


def _tokens(generator: torch.Generator) -> Inputs:
    return {"input_ids": torch.randint(1, 200, (4, 16), generator=generator)}


def _pixels(generator: torch.Generator) -> Inputs:
    return {"pixel_values": torch.randn(2, 3, 32, 32, generator=generator)}


def _bert() -> nn.Module:
    return transformers.BertModel(transformers.BertConfig(vocab_size=200, **SIZES))


def _gpt2() -> nn.Module:
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=200, n_embd=64, n_layer=2, n_head=4, use_cache=False)
    )


def _llama() -> nn.Module:
    config = transformers.LlamaConfig(vocab_size=200, num_key_value_heads=2, use_cache=False, **SIZES)
    return transformers.LlamaForCausalLM(config)


def _vit() -> nn.Module:
    return transformers.ViTModel(transformers.ViTConfig(image_size=32, patch_size=8, **SIZES))


def _t5() -> nn.Module:
    return transformers.T5EncoderModel(
        transformers.T5Config(vocab_size=200, d_model=64, d_kv=16, d_ff=128, num_layers=2, num_heads=4)
    )


MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[torch.Generator], Inputs]]] = {
    "BERT": (_bert, _tokens),
    "GPT-2": (_gpt2, _tokens),
    "Llama": (_llama, _tokens),
    "ViT": (_vit, _pixels),
    "T5 encoder": (_t5, _tokens),
}


def one_run(name: str, seed: int, limit: float) -> dict[str, Any]:
    """One model under a budget; the relative error of its worst output on 16 calls that it has not seen."""
    make, draw = MODELS[name]
    torch.manual_seed(seed)
    model = make().eval()
    known, unknown = (torch.Generator().manual_seed(1000 * part + seed) for part in (1, 2))
    calibration = [draw(known) for _ in range(8)]
    budget = txgraph.Budget(relative_error=limit, seed=seed)
    fast = txgraph.optimize(model, kwargs=calibration[0], calibration=calibration, budget=budget, backend="reference")
    error = _error(model, fast, [draw(unknown) for _ in range(16)])
    spending = fast.report.budget
    assert spending is not None, "there is a budget"
    held_out = spending.held_out.relative_error
    return {"model": name, "seed": seed, "unseen": error, "held_out": held_out, "methods": dict(spending.methods)}


def _error(model: nn.Module, fast: nn.Module, calls: list[Inputs]) -> float:
    sums: dict[int, tuple[float, float]] = {}
    exact: Any = copy.deepcopy(model).double()
    for call in calls:
        with torch.no_grad():
            found: Any = fast(**call)
            truth = exact(**{n: t.double() if t.is_floating_point() else t for n, t in call.items()})
        for at, (value, true) in enumerate(zip(found.to_tuple(), truth.to_tuple(), strict=True)):
            wrong, size = sums.get(at, (0.0, 0.0))
            sums[at] = wrong + float((value.double() - true).square().sum()), size + float(true.square().sum())
    return max(math.sqrt(wrong / size) for wrong, size in sums.values())


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.budgets", description=__doc__.split("\n")[0])
    parser.add_argument("--limit", type=float, default=0.005)
    parser.add_argument("--seeds", type=int, default=10)
    given = parser.parse_args()
    compression.RewriteTimer = Claimed
    os.environ["TXGRAPH_CACHE"] = "0"  # what it claims is for nobody else
    runs = [one_run(name, seed, given.limit) for name in MODELS for seed in range(given.seeds)]
    for name in MODELS:
        used = sorted(run["unseen"] / given.limit for run in runs if run["model"] == name)
        print(f"{name:12} share of the budget on unseen calls: {used[0]:.2f} to {used[-1]:.2f}")
    exceeded = [run for run in runs if run["unseen"] > given.limit]
    print(f"{len(runs)} runs, {len(exceeded)} over the budget of {given.limit}")
    RESULTS.write_text(json.dumps({"limit": given.limit, "runs": runs}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
