"""Generate tokens: transformers' own generate, on compiled steps.

python examples/generate_text.py          a small GPT-2, seconds
python examples/generate_text.py --full   GPT-2
"""

import argparse
from typing import Any

import torch
from transformers import GPT2Config, GPT2LMHeadModel

import txgraph

SMALL: dict[str, Any] = {"n_layer": 2, "n_embd": 128, "n_head": 4, "vocab_size": 1000}


def main() -> None:
    parser = argparse.ArgumentParser(description="Generate tokens.")
    parser.add_argument("--full", action="store_true", help="GPT-2 instead of a small one")
    sizes: dict[str, Any] = {} if parser.parse_args().full else SMALL
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=None, eos_token_id=None)).eval()
    prompt = torch.randint(1000, (1, 12))
    options: dict[str, Any] = {"max_new_tokens": 24, "do_sample": False, "pad_token_id": 0}

    fast = txgraph.optimize(model)
    ours, eager = (each.generate(prompt, **options) for each in (fast, model))
    print(ours[0, prompt.shape[1] :].tolist())
    assert torch.equal(ours, eager)
    assert len(fast.report.graphs) == 2  # one for prompts, one for tokens
    print(fast.report)


if __name__ == "__main__":
    main()
