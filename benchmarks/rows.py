"""The models and inputs that are compared: float32, seeded random weights, inference.

"Dense" rows get no attention mask: every token counts. "Padded" rows have a mask with zeros at the end of each
sequence, as a tokenizer makes it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import nn

Inputs = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Row:
    """One line of the comparison.

    Attributes:
        name: how users name it.
        make: gives the model in eval mode, and the keyword arguments of one call.
        tolerance: largest error against eager that is not called wrong, relative to eager's largest value.
    """

    name: str
    make: Callable[[], tuple[nn.Module, Inputs]]
    tolerance: float = 1e-4


def _seeded(name: str, make: Callable[[], tuple[nn.Module, Inputs]]) -> Row:
    def make_seeded() -> tuple[nn.Module, Inputs]:
        torch.manual_seed(0)
        model, inputs = make()
        return model.eval(), inputs

    return Row(name, make_seeded)


def _tokens(vocabulary: int, B: int, S: int, lengths: Sequence[int] = ()) -> Inputs:
    """Random tokens [B, S]; with ``lengths``, a mask [B, S] too."""
    inputs = {"input_ids": torch.randint(1, vocabulary, (B, S))}
    if lengths:
        inputs["attention_mask"] = (torch.arange(S) < torch.tensor(lengths)[:, None]).long()
    return inputs


def _bert(B: int, S: int, lengths: Sequence[int] = (), **sizes: Any) -> Callable[[], tuple[nn.Module, Inputs]]:
    def make() -> tuple[nn.Module, Inputs]:
        config = transformers.BertConfig(**sizes)
        return transformers.BertModel(config), _tokens(config.vocab_size, B, S, lengths)

    return make


def _gpt2(B: int, S: int) -> tuple[nn.Module, Inputs]:
    config = transformers.GPT2Config(use_cache=False)
    return transformers.GPT2LMHeadModel(config), _tokens(config.vocab_size, B, S)


def _vit(B: int) -> tuple[nn.Module, Inputs]:
    return transformers.ViTModel(transformers.ViTConfig()), {"pixel_values": torch.randn(B, 3, 224, 224)}


_MINILM: dict[str, Any] = {
    "hidden_size": 384,
    "num_hidden_layers": 6,
    "num_attention_heads": 12,
    "intermediate_size": 1536,
}

bert_base_1x128 = _seeded("bert-base-1x128", _bert(1, 128))
bert_base_8x128 = _seeded("bert-base-8x128", _bert(8, 128))
bert_base_8x128_padded = _seeded("bert-base-8x128-padded", _bert(8, 128, (128, 20, 35, 64, 15, 90, 28, 44)))
gpt2_1x128 = _seeded("gpt2-1x128", lambda: _gpt2(1, 128))
vit_base_1x224 = _seeded("vit-base-1x224", lambda: _vit(1))
minilm_shaped_32x64 = _seeded("minilm-shaped-32x64", _bert(32, 64, **_MINILM))

ROWS: Mapping[str, str] = {
    "bert-base-1x128": "benchmarks.rows:bert_base_1x128",
    "bert-base-8x128": "benchmarks.rows:bert_base_8x128",
    "bert-base-8x128-padded": "benchmarks.rows:bert_base_8x128_padded",
    "gpt2-1x128": "benchmarks.rows:gpt2_1x128",
    "vit-base-1x224": "benchmarks.rows:vit_base_1x224",
    "minilm-shaped-32x64": "benchmarks.rows:minilm_shaped_32x64",
    "minilm-real-32": "benchmarks.minilm:minilm_real_32",  # trained weights and real sentences, padded
}
DEFAULT_ROWS = ("bert-base-1x128", "bert-base-8x128")
