"""Serve batches of texts of different lengths: one graph for all sizes, and no work for padding.

python examples/serve_padded.py          a small BERT, seconds
python examples/serve_padded.py --full   BERT-base
"""

import argparse
from typing import Any

import torch
from torch.export import Dim
from transformers import BertConfig, BertModel

import txgraph

SMALL: dict[str, Any] = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 512}
REQUESTS = [(20, 7), (48, 30, 12, 6, 6, 5), (100, 3, 9), (16, 16)]  # lengths of the texts, in tokens


def batch_of(*lengths: int) -> dict[str, torch.Tensor]:
    """Ids and mask [B, S], padded to the longest text, as a tokenizer gives them."""
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    return {"input_ids": torch.randint(1, 1000, mask.shape) * mask, "attention_mask": mask}


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve batches of texts of different lengths.")
    parser.add_argument("--full", action="store_true", help="BERT-base instead of a small one")
    sizes: dict[str, Any] = {} if parser.parse_args().full else SMALL
    torch.manual_seed(0)
    model = BertModel(BertConfig(**sizes)).eval()

    # Before the first request: a graph for padded calls of any size, and one for those without padding.
    axes = {0: Dim("batch", min=2, max=64), 1: Dim("length", min=2, max=512)}
    fast = txgraph.optimize(
        model,
        kwargs=batch_of(32, 9, 5, 3),
        padding="zeros",  # nobody uses what comes out at padding
        dynamic_shapes={"input_ids": axes, "attention_mask": axes},
    )
    fast(**batch_of(8, 8, 8, 8))
    print(fast.report)

    for lengths in REQUESTS:
        request = batch_of(*lengths)
        tokens = request["attention_mask"].bool()
        with torch.inference_mode():
            ours, eager = fast(**request).last_hidden_state, model(**request).last_hidden_state
        error = (ours[tokens] - eager[tokens]).abs().max().item()
        print(f"lengths {lengths}: {tokens.float().mean():.0%} tokens, largest difference to eager {error:.1e}")
        assert error < 1e-4
        assert not ours[~tokens].any()
    assert len(fast.report.graphs) == 2, "a request was compiled"


if __name__ == "__main__":
    main()
