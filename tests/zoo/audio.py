"""Encoders of sound."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from transformers import Wav2Vec2Config, Wav2Vec2Model, WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from tests.zoo.architecture import ENCODER, ONE_LAYER, SPECIAL, WORDS, Architecture, Inputs, family, normal


def audio() -> Iterator[Architecture]:
    """All of them."""
    whisper = {"d_model": 32, "encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 64}
    whisper |= {"max_source_positions": 20, "num_mel_bins": 8, "decoder_start_token_id": 2, **WORDS, **SPECIAL}
    yield from family("whisper-encoder", WhisperEncoder, WhisperConfig, whisper, _features)
    convolutions = {"conv_dim": (16, 16), "conv_kernel": (10, 3), "conv_stride": (5, 2)}
    positions = {"num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 4}
    wave = {**ENCODER, **ONE_LAYER, **WORDS, **convolutions, **positions}
    yield from family("wav2vec2", Wav2Vec2Model, Wav2Vec2Config, wave, _samples)
    normed = {**wave, "feat_extract_norm": "layer", "do_stable_layer_norm": True}
    yield from family("wav2vec2-masked", Wav2Vec2Model, Wav2Vec2Config, normed, _masked_samples)


def _features(batch: int, length: int) -> Inputs:
    return {"input_features": normal(batch, 8, 40)}


def _samples(batch: int, length: int) -> Inputs:
    return {"input_values": normal(batch, 20 * length)}


def _masked_samples(batch: int, length: int) -> Inputs:
    mask = torch.ones(batch, 20 * length, dtype=torch.long)
    for row in range(1, batch):
        mask[row, 20 * length - 10 * row :] = 0
    return {**_samples(batch, length), "attention_mask": mask}
