"""Encoders of images, and of images beside text."""

from __future__ import annotations

from collections.abc import Iterator

from transformers import (
    BeitConfig,
    BeitModel,
    CLIPConfig,
    CLIPModel,
    DeiTConfig,
    DeiTModel,
    Dinov2Config,
    Dinov2Model,
    SiglipConfig,
    SiglipModel,
    ViTConfig,
    ViTModel,
)

from tests.zoo.architecture import ENCODER, ONE_LAYER, SPECIAL, WORDS, Architecture, Inputs, family, images, tokens


def vision() -> Iterator[Architecture]:
    """All of them."""
    sizes = {**ENCODER, "image_size": 32, "patch_size": 8}
    yield from family("vit", ViTModel, ViTConfig, sizes, images)
    yield from family("deit", DeiTModel, DeiTConfig, {**sizes, **ONE_LAYER}, images)
    beit = {**sizes, "use_relative_position_bias": True}
    yield from family("beit", BeitModel, BeitConfig, beit, images)
    yield from family("dinov2", Dinov2Model, Dinov2Config, {**sizes, **ONE_LAYER, "mlp_ratio": 2}, images)
    pair = {"text_config": {**ENCODER, **ONE_LAYER, **WORDS, **SPECIAL}, "vision_config": {**sizes, **ONE_LAYER}}
    yield from family("clip", CLIPModel, CLIPConfig, {**pair, "projection_dim": 16}, _pairs)
    siglip = {**pair, "text_config": {**pair["text_config"], "projection_size": 32}}
    yield from family("siglip", SiglipModel, SiglipConfig, siglip, _pairs)


def _pairs(batch: int, length: int) -> Inputs:
    return {**tokens(batch, length), **images(batch, length)}
