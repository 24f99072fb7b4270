"""Small models of three families, for what is compiled for GPUs."""

from __future__ import annotations

from torch import nn
from transformers import BertConfig, BertModel, GPT2Config, GPT2Model, LlamaConfig, LlamaModel

SIZES = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64, "num_hidden_layers": 1}


def bert() -> nn.Module:
    return BertModel(BertConfig(**SIZES, vocab_size=64)).eval()


def gpt2() -> nn.Module:
    special = {"bos_token_id": 0, "eos_token_id": 0}
    sizes = {"n_embd": 32, "n_head": 2, "n_layer": 1, "n_positions": 32, "vocab_size": 64}
    return GPT2Model(GPT2Config(**sizes, **special, use_cache=False)).eval()


def llama() -> nn.Module:
    return LlamaModel(LlamaConfig(**SIZES, num_key_value_heads=1, vocab_size=64, use_cache=False)).eval()
