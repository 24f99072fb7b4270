"""The rows for an NVIDIA GPU: seeded random weights, in bfloat16. They are made on the GPU, in a process that has one.

Decoding is in float32: its tokens must be eager's. There, and for one short text, launches take longer than kernels.
"""

from __future__ import annotations

from typing import Any

import torch
import transformers

from benchmarks.decoding import gpt2
from benchmarks.rows import Made, attended, seeded, tokens

# bfloat16 has 8 bits: over 24 layers eager itself is 3 % away from float64, and so may be another on the other side.
_TOLERANCE = 1e-1
_BERT_LARGE: dict[str, Any] = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "max_position_embeddings": 512,
}
_GPT2_XL: dict[str, Any] = {"n_embd": 1600, "n_layer": 48, "n_head": 25, "use_cache": False}
_B, _S = 32, 512
_LENGTHS = [_S, 8, 8, 496] + [16 * i for pair in range(2, 16) for i in (pair, 32 - pair)]  # half of 32 x 512


def _on_gpu(model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> Made:
    return model.to("cuda", torch.bfloat16), {name: t.cuda() for name, t in inputs.items()}


def _bert_large(padded: bool) -> Made:
    config = transformers.BertConfig(**_BERT_LARGE)
    return _on_gpu(transformers.BertModel(config), tokens(config.vocab_size, _B, _S, _LENGTHS if padded else ()))


def _gpt2_xl(B: int, S: int) -> Made:
    config = transformers.GPT2Config(**_GPT2_XL)
    return _on_gpu(transformers.GPT2LMHeadModel(config), tokens(config.vocab_size, B, S))


def _bert_base() -> Made:
    config = transformers.BertConfig()
    return _on_gpu(transformers.BertModel(config), tokens(config.vocab_size, 1, 128))


def _gpt2_decoding() -> Made:
    model, inputs = gpt2(16, 64)
    return model.cuda(), {name: t.cuda() for name, t in inputs.items()}


bert_large_32x512 = seeded("cuda-bert-large-32x512", lambda: _bert_large(False), tolerance=_TOLERANCE)
bert_large_32x512_padded = seeded(
    "cuda-bert-large-32x512-padded", lambda: _bert_large(True), tolerance=_TOLERANCE, valid=attended
)
gpt2_xl_8x512 = seeded("cuda-gpt2-xl-8x512", lambda: _gpt2_xl(8, 512), tolerance=_TOLERANCE)
bert_base_1x128 = seeded("cuda-bert-base-1x128", _bert_base, tolerance=_TOLERANCE)
gpt2_decode_64 = seeded("cuda-gpt2-decode-64", _gpt2_decoding, new_tokens=64)
