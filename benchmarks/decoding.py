"""Greedy decoding: the whole of it is one call, from the prompt to the last token."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import transformers
from torch import nn

from benchmarks.rows import Made, seeded, tokens


class GreedyDecoding(nn.Module):
    """Tokens [B, S] -> [B, S + new_tokens], by ``generate`` of Hugging Face with the cache that it takes by itself.

    Tokens are equal or not: there is no rounding to allow for. Options of ``generate`` are those of a competitor.
    """

    def __init__(self, decoder: Any, new_tokens: int, **options: Any) -> None:
        super().__init__()
        self.decoder = decoder
        self.new_tokens = new_tokens
        self.options = options

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        generated: torch.Tensor = self.decoder.generate(
            input_ids=input_ids,
            attention_mask=attention_mask,
            max_new_tokens=self.new_tokens,
            do_sample=False,
            **self.options,
        )
        return generated


def gpt2(prompt: int, new_tokens: int) -> Made:
    # No end of the text: every call generates as many tokens.
    config = transformers.GPT2Config(eos_token_id=None, bos_token_id=None)
    inputs = tokens(config.vocab_size, 1, prompt, [prompt])
    return GreedyDecoding(transformers.GPT2LMHeadModel(config), new_tokens), inputs


gpt2_decode_64 = seeded("gpt2-decode-64", lambda: gpt2(16, 64), new_tokens=64)
# With random weights all tokens are nearly as likely: after one that differs, all others do.
gpt2_decode_64_lossy = replace(gpt2_decode_64, name="gpt2-decode-64-lossy", tolerance=1.0)
