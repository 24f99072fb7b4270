"""Make a BERT faster: ahead of time, and at the first call.

python examples/optimize_bert.py          a small BERT, seconds
python examples/optimize_bert.py --full   BERT-base
"""

import argparse
from typing import Any

import torch
from transformers import BertConfig, BertModel

import txgraph

SMALL: dict[str, Any] = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 512}


def largest_difference(ours: torch.Tensor, eager: torch.Tensor) -> float:
    return (ours - eager).abs().max().item()


def check(fast: torch.nn.Module, model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> None:
    with torch.no_grad():
        ours, eager = fast(**inputs), model(**inputs)
    assert type(ours) is type(eager)  # the same output class, by attribute, key or position
    error = largest_difference(ours.last_hidden_state, eager.last_hidden_state)
    shape = list(inputs["input_ids"].shape)
    print(f"tokens {shape}: largest difference to eager {error:.1e}")
    assert error < 1e-4


def main() -> None:
    parser = argparse.ArgumentParser(description="Make a BERT faster.")
    parser.add_argument("--full", action="store_true", help="BERT-base instead of a small one")
    sizes: dict[str, Any] = {} if parser.parse_args().full else SMALL
    torch.manual_seed(0)
    config = BertConfig(**sizes)
    model = BertModel(config).eval()

    def tokens(batch: int, length: int) -> dict[str, torch.Tensor]:
        ids = torch.randint(0, config.vocab_size, (batch, length))
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    print("== ahead of time: compiled now, for calls like this one")
    fast = txgraph.optimize(model, kwargs=tokens(1, 128))
    check(fast, model, tokens(1, 128))
    print(fast.report)

    print("\n== lazily: compiled at the first call; at a second shape, batch and length become dynamic")
    lazy = txgraph.optimize(model)
    for batch, length in ((1, 128), (2, 64), (3, 40), (4, 17)):
        check(lazy, model, tokens(batch, length))
    print(lazy.report)
    assert not fast.report.fallbacks
    assert len(lazy.report.graphs) == 2  # the third and fourth shape use the second graph


if __name__ == "__main__":
    main()
