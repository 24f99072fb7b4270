"""Encoders of text with a decoder."""

from __future__ import annotations

from collections.abc import Iterator

from transformers import (
    BartConfig,
    BartModel,
    MarianConfig,
    MarianModel,
    MBartConfig,
    MBartModel,
    T5Config,
    T5Model,
)

from tests.zoo.architecture import SPECIAL, WORDS, Architecture, both_sides, family


def encoder_decoders() -> Iterator[Architecture]:
    """All of them."""
    t5 = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, **WORDS}
    yield from family("t5", T5Model, T5Config, t5, both_sides)
    bart = {"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "max_position_embeddings": 64, **WORDS, **SPECIAL}
    bart |= {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64}
    yield from family("bart", BartModel, BartConfig, bart, both_sides)
    single = {**bart, "encoder_layers": 1, "decoder_layers": 1}
    yield from family("mbart", MBartModel, MBartConfig, single, both_sides)  # norms come first
    marian = {**single, "decoder_vocab_size": 100, "decoder_start_token_id": 0, "activation_function": "swish"}
    yield from family("marian", MarianModel, MarianConfig, marian, both_sides)
