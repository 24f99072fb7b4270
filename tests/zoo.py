"""The architectures that txgraph is tested on: real code, small configurations, seeded random weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import (
    BartConfig,
    BartModel,
    BertConfig,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2Model,
    RobertaConfig,
    RobertaModel,
    T5Config,
    T5Model,
    ViTConfig,
    ViTModel,
    WhisperConfig,
)
from transformers.models.whisper.modeling_whisper import WhisperEncoder

Inputs = dict[str, torch.Tensor]
_SPECIAL = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
_ENCODER = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
_DECODER = {**_ENCODER, "num_key_value_heads": 2}


@dataclass(frozen=True)
class Architecture:
    """One entry of the zoo.

    Attributes:
        make: builds the model in eval mode. inputs: of a batch size and a length.
        attentions: how many attentions one forward computes.
        fused: whether every attention can be one operator (not where its weights are returned).
    """

    name: str
    make: Callable[[], nn.Module]
    inputs: Callable[[int, int], Inputs]
    attentions: int
    fused: bool = True

    def model(self) -> nn.Module:
        """The model with seeded weights, in eval mode."""
        torch.manual_seed(0)
        return self.make().eval()

    def fresh(self, batch: int, length: int) -> Inputs:
        """Other inputs of the same shape: what compiling with :attr:`inputs` has not seen."""
        return {name: tensor.flip(0) for name, tensor in self.inputs(batch, length).items()}


def tokens(batch: int, length: int) -> Inputs:
    """Token ids, and a mask that hides the end of the later sequences."""
    generator = torch.Generator().manual_seed(batch * 1000 + length)
    ids = torch.randint(5, 90, (batch, length), generator=generator)
    mask = torch.ones(batch, length, dtype=torch.long)
    for row in range(1, batch):
        mask[row, length - row % (length - 1) :] = 0
    return {"input_ids": ids, "attention_mask": mask}


def _unmasked(batch: int, length: int) -> Inputs:
    return {"input_ids": tokens(batch, length)["input_ids"]}


def _both_sides(batch: int, length: int) -> Inputs:
    return {**tokens(batch, length), "decoder_input_ids": tokens(batch, max(2, length // 2))["input_ids"]}


def _normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def _key_padding(batch: int, length: int) -> Inputs:
    hidden = tokens(batch, length)["attention_mask"] == 0
    return {"src": _normal(batch, length, 32), "src_key_padding_mask": hidden}


class SelfAttention(nn.Module):
    """nn.MultiheadAttention on one input."""

    def __init__(self, need_weights: bool) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True)
        self.need_weights = need_weights

    def forward(self, x: torch.Tensor, key_padding_mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Attention of x to itself, and its weights where they are wanted."""
        result: tuple[torch.Tensor, torch.Tensor | None] = self.attention(
            x, x, x, key_padding_mask=key_padding_mask, need_weights=self.need_weights
        )
        return result


def _transformers(implementation: str) -> Iterator[Architecture]:
    chosen: dict[str, Any] = {"attn_implementation": implementation}
    words: dict[str, Any] = {"vocab_size": 100, **chosen}

    def add(name: str, make: Callable[[], nn.Module], inputs: Any = tokens, attentions: int = 2) -> Architecture:
        return Architecture(f"{name}-{implementation}", make, inputs, attentions)

    yield add("bert", lambda: BertModel(BertConfig(**_ENCODER, **words)))
    yield add("bert-unmasked", lambda: BertModel(BertConfig(**_ENCODER, **words)), _unmasked)
    yield add("roberta", lambda: RobertaModel(RobertaConfig(**_ENCODER, **words)))
    distil = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64}
    yield add("distilbert", lambda: DistilBertModel(DistilBertConfig(**distil, **words)))
    gpt2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "bos_token_id": 0, "eos_token_id": 2}
    yield add("gpt2", lambda: GPT2LMHeadModel(GPT2Config(**gpt2, **words)))
    yield add("gpt2-unmasked", lambda: GPT2LMHeadModel(GPT2Config(**gpt2, **words)), _unmasked)
    t5 = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
    yield add("t5", lambda: T5Model(T5Config(**t5, **words)), _both_sides, 6)
    bart = {"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "max_position_embeddings": 64}
    bart |= {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64}
    yield add("bart", lambda: BartModel(BartConfig(**bart, **_SPECIAL, **words)), _both_sides, 6)
    yield add(
        "vit",
        lambda: ViTModel(ViTConfig(**_ENCODER, image_size=32, patch_size=8, **chosen)),
        lambda batch, length: {"pixel_values": _normal(batch, 3, 32, 32)},
    )
    yield add("llama", lambda: LlamaForCausalLM(LlamaConfig(**_DECODER, **words)))
    yield add("llama-unmasked", lambda: LlamaForCausalLM(LlamaConfig(**_DECODER, **words)), _unmasked)
    yield add("qwen2", lambda: Qwen2Model(Qwen2Config(**_DECODER, **words)))
    whisper = {"d_model": 32, "encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 64}
    whisper |= {"max_source_positions": 20, "num_mel_bins": 8, "decoder_start_token_id": 2}
    yield add(
        "whisper-encoder",
        lambda: WhisperEncoder(WhisperConfig(**whisper, **_SPECIAL, **words)),
        lambda batch, length: {"input_features": _normal(batch, 8, 40)},
    )


def _torch() -> Iterator[Architecture]:
    def encoder() -> nn.Module:
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
        return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def attend(batch: int, length: int) -> Inputs:
        padding = _key_padding(batch, length)
        return {"x": padding["src"], "key_padding_mask": padding["src_key_padding_mask"]}

    yield Architecture("nn.TransformerEncoder", encoder, _key_padding, 2)
    yield Architecture(
        "nn.Transformer",
        lambda: nn.Transformer(32, 4, 2, 2, 64, batch_first=True),
        lambda batch, length: {"src": _normal(batch, length, 32), "tgt": _normal(batch, max(2, length // 2), 32)},
        6,
    )
    yield Architecture("nn.MultiheadAttention", lambda: SelfAttention(False), attend, 1)
    yield Architecture("nn.MultiheadAttention-weights", lambda: SelfAttention(True), attend, 1, fused=False)


ZOO: dict[str, Architecture] = {a.name: a for a in (*_transformers("sdpa"), *_transformers("eager"), *_torch())}
