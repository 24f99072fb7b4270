"""The models that docs/gallery/ shows, and what is said of their pictures.

The pictures name source lines: those of ``Attention`` stay where they are while it stays at the top.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import transformers
from torch import nn

Made = tuple[nn.Module, dict[str, torch.Tensor]]


class Attention(nn.Module):
    """Attention as one writes it by hand: nothing says that it is one operator."""

    def __init__(self, E: int = 256, H: int = 4) -> None:
        super().__init__()
        self.H = H
        self.query, self.key, self.value, self.out = (nn.Linear(E, E) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Mix the tokens of x: [B, S, E]; each sees itself and those before it."""
        B, S, E = x.shape
        q, k, v = (f(x).view(B, S, self.H, -1).transpose(1, 2) for f in (self.query, self.key, self.value))
        scores = torch.matmul(q, k.transpose(-2, -1)) / math.sqrt(E // self.H)
        later = torch.ones(S, S, dtype=torch.bool).triu(1)
        weights = torch.softmax(scores.masked_fill(later, float("-inf")), dim=-1)
        return self.out(torch.matmul(weights, v).transpose(1, 2).reshape(B, S, E))


@dataclass(frozen=True)
class Shown:
    """One model of the gallery.

    Attributes:
        name: of the file. title: of the section. words: how to read the picture.
        make: gives the model and the keyword arguments of one call.
    """

    name: str
    title: str
    words: str
    make: Callable[[], Made]


def tokens(S: int = 128, **more: torch.Tensor) -> dict[str, torch.Tensor]:
    """Token ids [1, S]."""
    return {"input_ids": torch.arange(S)[None], **more}


def padded_classifier() -> Made:
    """A small classifier with a batch of which half are tokens."""
    sizes = {"hidden_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 1024}
    mask = (torch.arange(64) < torch.tensor([64, 32, 16, 16])[:, None]).long()
    model = transformers.BertForSequenceClassification(transformers.BertConfig(vocab_size=1000, **sizes))
    return model, {"input_ids": torch.arange(256).view(4, 64), "attention_mask": mask}


def llama() -> Made:
    """A Llama of 30 layers, with nine heads that share three keys."""
    config = transformers.LlamaConfig(
        vocab_size=1024,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        tie_word_embeddings=True,
        use_cache=False,
    )
    return transformers.LlamaForCausalLM(config), tokens()


def t5() -> Made:
    """T5-small: the defaults of its configuration."""
    model = transformers.T5ForConditionalGeneration(transformers.T5Config(use_cache=False))
    return model, tokens(64, decoder_input_ids=torch.arange(32)[None])


SHOWN = (
    Shown(
        "attention",
        "Attention by hand",
        "The smallest picture: both graphs as one. The chain from scores to weighted values is found to be attention, "
        "and its mask to be "
        "causal; query, key and value become one operator.",
        lambda: (Attention(), {"x": torch.zeros(2, 64, 256)}),
    ),
    Shown(
        "bert-base",
        "BERT-base",
        "Twelve equal layers are drawn once. Query, key and value become one operator, each GELU a part of its linear.",
        lambda: (transformers.BertModel(transformers.BertConfig()), tokens()),
    ),
    Shown(
        "padding",
        "A classifier with a padded batch",
        "Only the logits come out, so that nobody sees what is computed at padding: between packing and unpacking, "
        "everything runs on tokens `[N, ...]` instead of `[B, S, ...]`.",
        padded_classifier,
    ),
    Shown(
        "gpt2",
        "GPT-2",
        "The mask that transformers builds from indices is found to be causal and is no tensor any more. GPT-2's own "
        "form of GELU, spelled out in eight operators, becomes a part of its linear.",
        lambda: (transformers.GPT2LMHeadModel(transformers.GPT2Config(use_cache=False)), tokens()),
    ),
    Shown(
        "llama",
        "A Llama of 135 million parameters",
        "Thirty layers, drawn once. RMS norms are recovered from their parts, and nine heads share three keys and "
        "values without copies of them.",
        llama,
    ),
    Shown(
        "t5-small",
        "T5-small",
        "An encoder and a decoder. The relative position biases, which the layers of a stack share, depend on sizes "
        "alone: they are folded into constants.",
        t5,
    ),
)
