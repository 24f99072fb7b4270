"""Encoders of text."""

from __future__ import annotations

from collections.abc import Iterator

from transformers import (
    AlbertConfig,
    AlbertModel,
    BertConfig,
    BertModel,
    DebertaV2Config,
    DebertaV2Model,
    DistilBertConfig,
    DistilBertModel,
    ElectraConfig,
    ElectraModel,
    MPNetConfig,
    MPNetModel,
    RobertaConfig,
    RobertaModel,
)

from tests.zoo.architecture import EAGER, ENCODER, ONE_LAYER, SPECIAL, WORDS, Architecture, family, tokens, unmasked


def encoders() -> Iterator[Architecture]:
    """All of them."""
    sizes = {**ENCODER, **WORDS}
    yield from family("bert", BertModel, BertConfig, sizes, tokens)
    yield from family("bert-unmasked", BertModel, BertConfig, sizes, unmasked)
    yield from family("roberta", RobertaModel, RobertaConfig, sizes, tokens)
    distilled = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, **WORDS}
    yield from family("distilbert", DistilBertModel, DistilBertConfig, distilled, tokens)
    # One layer, used twice, and embeddings narrower than the layers.
    yield from family("albert", AlbertModel, AlbertConfig, {**sizes, **SPECIAL, "embedding_size": 16}, tokens)
    yield from family("electra", ElectraModel, ElectraConfig, {**sizes, **ONE_LAYER, "embedding_size": 16}, tokens)
    yield from family("mpnet", MPNetModel, MPNetConfig, sizes, tokens, EAGER)  # one bias of relative positions
    relative = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_buckets": 8}
    yield from family("deberta-v2", DebertaV2Model, DebertaV2Config, {**sizes, **relative}, tokens, EAGER)
