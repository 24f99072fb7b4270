"""Decoders of text."""

from __future__ import annotations

from collections.abc import Iterator

from transformers import (
    BloomConfig,
    BloomModel,
    FalconConfig,
    FalconModel,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    GPTJConfig,
    GPTJModel,
    GPTNeoXConfig,
    GPTNeoXModel,
    Llama4ForCausalLM,
    Llama4TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralModel,
    MixtralConfig,
    MixtralModel,
    OPTConfig,
    OPTModel,
    PhiConfig,
    PhiModel,
    Qwen2Config,
    Qwen2Model,
    StableLmConfig,
    StableLmModel,
)

from tests.zoo.architecture import (
    DECODER,
    EAGER,
    ENCODER,
    ONE_LAYER,
    SPECIAL,
    WORDS,
    Architecture,
    family,
    tokens,
    unmasked,
)


def decoders() -> Iterator[Architecture]:
    """All of them."""
    gpt = {"n_embd": 32, "n_layer": 2, "n_head": 4, **WORDS, **SPECIAL}
    yield from family("gpt2", GPT2LMHeadModel, GPT2Config, gpt, tokens)
    yield from family("gpt2-unmasked", GPT2LMHeadModel, GPT2Config, gpt, unmasked)
    yield from family("gpt-j", GPTJModel, GPTJConfig, {**gpt, "n_layer": 1, "rotary_dim": 4}, tokens, EAGER)
    bloom = {"hidden_size": 32, "n_layer": 1, "n_head": 4, **WORDS, **SPECIAL}
    yield from family("bloom", BloomModel, BloomConfig, bloom, tokens, EAGER)  # ALiBi
    sizes = {**ENCODER, **ONE_LAYER, **WORDS, **SPECIAL}
    opt = {**sizes, "ffn_dim": 64, "word_embed_proj_dim": 32}
    yield from family("opt", OPTModel, OPTConfig, opt, tokens)
    yield from family("gpt-neox", GPTNeoXModel, GPTNeoXConfig, sizes, tokens)
    yield from family("phi", PhiModel, PhiConfig, sizes, tokens)
    yield from family("stablelm", StableLmModel, StableLmConfig, {**sizes, "num_key_value_heads": 2}, tokens)
    # One head of keys and values for all of the queries.
    yield from family("falcon", FalconModel, FalconConfig, sizes, tokens)
    alibi = {**sizes, "alibi": True, "multi_query": False, "parallel_attn": False}
    yield from family("falcon-alibi", FalconModel, FalconConfig, alibi, tokens)
    grouped = {**DECODER, **WORDS}
    windowed = {**grouped, **SPECIAL, "sliding_window": 4}  # less than the lengths of the tests
    yield from family("llama", LlamaForCausalLM, LlamaConfig, grouped, tokens)
    yield from family("llama-unmasked", LlamaForCausalLM, LlamaConfig, grouped, unmasked)
    yield from family("qwen2", Qwen2Model, Qwen2Config, grouped, tokens)
    yield from family("mistral", MistralModel, MistralConfig, {**windowed, **ONE_LAYER}, tokens)
    yield from family("mistral-unmasked", MistralModel, MistralConfig, {**windowed, **ONE_LAYER}, unmasked)
    own_heads = {**windowed, **ONE_LAYER, "head_dim": 8}
    yield from family("gemma3-unmasked", Gemma3ForCausalLM, Gemma3TextConfig, own_heads, unmasked)
    chunked = {
        **own_heads,
        "use_qk_norm": False,
        "attention_chunk_size": 4,
        "num_local_experts": 2,
        "interleave_moe_layer_step": 2,
    }
    yield from family(
        "llama4-unmasked", Llama4ForCausalLM, Llama4TextConfig, {**chunked, "intermediate_size_mlp": 64}, unmasked
    )
    capped = {**windowed, "head_dim": 8, "query_pre_attn_scalar": 8, "attn_logit_softcapping": 5.0}
    yield from family("gemma2", Gemma2ForCausalLM, Gemma2Config, capped, tokens, EAGER)
    # Only this implementation of experts has sizes that do not depend on data.
    experts = {"num_local_experts": 4, "experts_implementation": "batched_mm"}
    yield from family("mixtral", MixtralModel, MixtralConfig, {**grouped, **ONE_LAYER, **SPECIAL, **experts}, tokens)
