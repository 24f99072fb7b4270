"""``generate`` on compiled steps: the tokens of eager, few graphs, one cache that is written in place."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import nn
from transformers import (
    DynamicCache,
    Gemma2Config,
    Gemma2ForCausalLM,
    GenerationConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    StaticCache,
    T5Config,
    T5ForConditionalGeneration,
    TextStreamer,
)

import txgraph
from tests.small import MLP
from tests.zoo import ZOO
from txgraph.capture.guards import ModelState

WORDS = 300
NEVER_ENDS: dict[str, Any] = {"vocab_size": WORDS, "eos_token_id": None, "bos_token_id": None}
SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    **NEVER_ENDS,
}


def gpt2() -> nn.Module:
    return GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=2, n_head=4, **NEVER_ENDS))


def llama() -> nn.Module:
    return LlamaForCausalLM(LlamaConfig(**SIZES))


def mistral() -> nn.Module:
    return MistralForCausalLM(MistralConfig(sliding_window=8, **SIZES))


def gemma2() -> nn.Module:
    """Layers take turns: full attention, and sliding."""
    return Gemma2ForCausalLM(Gemma2Config(head_dim=8, sliding_window=8, **SIZES))


def made(make: Callable[[], nn.Module], seed: int = 0) -> Any:
    """With large weights: tokens then depend on what stands before them."""
    torch.manual_seed(seed)
    model = make().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(5)
    return model


def prompt(batch: int, length: int, padding: int = 0, seed: int = 0) -> dict[str, torch.Tensor]:
    """Tokens; the first sequence is padded at its left."""
    ids = torch.randint(1, WORDS, (batch, length), generator=torch.Generator().manual_seed(seed))
    mask = torch.ones_like(ids)
    mask[0, :padding] = 0
    return {"input_ids": ids, "attention_mask": mask}


def same_tokens(fast: Any, model: Any, inputs: dict[str, torch.Tensor], **options: Any) -> torch.Tensor:
    options = {"max_new_tokens": 20, "do_sample": False, "pad_token_id": 0, **options}
    torch.manual_seed(7)
    tokens = fast.generate(**inputs, **options)
    torch.manual_seed(7)
    assert torch.equal(tokens, model.generate(**inputs, **options))
    return tokens


def optimized(model: nn.Module, **options: Any) -> txgraph.OptimizedModel:
    return txgraph.optimize(model, **{"backend": "reference", "verify": "off", **options})


# -- the tokens of eager ------------------------------------------------------------------------------------------


MANY = [(1, 5, 0), (1, 1, 0), (2, 9, 4), (3, 12, 11), (1, 30, 3)]


@pytest.mark.parametrize(("make", "prompts"), [(gpt2, MANY), (mistral, MANY), (llama, MANY[:3]), (gemma2, MANY)])
def test_prompts_of_many_lengths_and_batches(
    make: Callable[[], nn.Module], prompts: Sequence[tuple[int, int, int]]
) -> None:
    model = made(make)
    fast = optimized(model)
    seen = set()
    for number, (batch, length, padding) in enumerate(prompts):
        tokens = same_tokens(fast, model, prompt(batch, length, padding, seed=number), max_new_tokens=10)
        seen |= set(tokens[:, length:].flatten().tolist())
    assert len(seen) > 10, "a model that repeats one token would not notice a wrong cache"
    assert not fast.report.fallbacks
    assert not fast.report.notes


@pytest.mark.slow
@pytest.mark.parametrize("make", [gpt2, mistral])
def test_compiled(make: Callable[[], nn.Module]) -> None:
    model = made(make)
    fast = optimized(model, backend="inductor", verify="passes")
    for batch, length, padding in [(1, 6, 0), (2, 11, 3)]:
        same_tokens(fast, model, prompt(batch, length, padding, 0))
    assert not fast.report.fallbacks
    assert fast.report.to_dict()["passes"]


@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 3},
        {"do_sample": True},
        {"do_sample": True, "num_return_sequences": 2, "top_k": 5},
        {"num_beams": 2, "do_sample": True},
        {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2},
        {"prefill_chunk_size": 4},
    ],
    ids=str,
)
def test_other_ways_to_choose_tokens(options: dict[str, Any]) -> None:
    """The first call compiles, and must draw no random numbers from the user's generator."""
    model = made(llama)
    fast = optimized(model)
    same_tokens(fast, model, prompt(2, 9, 4), **options)
    assert not fast.report.notes


def test_compiling_leaves_the_random_numbers_alone() -> None:
    model = made(gpt2)
    fast = optimized(model, backend="inductor")  # it measures products of random matrices
    same_tokens(fast, model, prompt(1, 6), do_sample=True, max_new_tokens=4)


def test_stopping_and_streaming() -> None:
    class Kept(TextStreamer):
        def __init__(self) -> None:
            self.tokens: list[int] = []

        def put(self, value: torch.Tensor) -> None:
            self.tokens += value.flatten().tolist()

        def end(self) -> None:
            self.tokens.append(-1)

    model = made(gpt2)
    fast = optimized(model)
    free = same_tokens(fast, model, prompt(1, 6))
    end, streamer = int(free[0, 9]), Kept()
    stopped = same_tokens(fast, model, prompt(1, 6), eos_token_id=end)
    assert stopped.shape[1] < free.shape[1]
    fast.generate(**prompt(1, 6), max_new_tokens=3, do_sample=False, pad_token_id=0, streamer=streamer)
    assert streamer.tokens == [*free[0, :9].tolist(), -1]


def test_a_generation_config_is_not_changed() -> None:
    model = made(gpt2)
    config = GenerationConfig(max_new_tokens=6, do_sample=False, pad_token_id=0)
    before = config.to_dict()
    ids = prompt(1, 6)["input_ids"]
    fast = optimized(model)
    assert torch.equal(fast.generate(ids, config), model.generate(ids, config))
    assert config.to_dict() == before
    assert fast.report.graphs


def test_scores_and_hidden_states() -> None:
    model = made(llama)
    options = {
        **prompt(2, 7, 3),
        "max_new_tokens": 4,
        "do_sample": False,
        "pad_token_id": 0,
        "return_dict_in_generate": True,
        "output_scores": True,
        "output_hidden_states": True,
    }
    ours, eager = optimized(model).generate(**options), model.generate(**options)
    for mine, its in zip(ours.scores, eager.scores, strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-4, atol=1e-4)
    for mine, its in zip(ours.hidden_states[-1], eager.hidden_states[-1], strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-4, atol=1e-4)


def test_embeddings_as_the_prompt() -> None:
    model = made(llama)
    embeddings = model.get_input_embeddings()(prompt(1, 7)["input_ids"]).detach()
    same_tokens(optimized(model), model, {"inputs_embeds": embeddings})


# -- the cache ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [gpt2, mistral])
def test_a_cache_that_is_given_back_can_be_continued(make: Callable[[], nn.Module]) -> None:
    """By us and in eager; each layer then has a length of its own."""
    model = made(make)
    fast = optimized(model)
    options: dict[str, Any] = {"do_sample": False, "pad_token_id": 0, "max_new_tokens": 6}
    start = prompt(1, 6)["input_ids"]
    whole = model.generate(start, **{**options, "max_new_tokens": 14})
    for go_on in (fast.generate, model.generate):
        first = fast.generate(start, return_dict_in_generate=True, **options)
        cache = first.past_key_values
        assert isinstance(cache, StaticCache)
        assert len({id(layer.cumulative_length) for layer in cache.layers}) == len(cache.layers)
        rest = go_on(first.sequences, past_key_values=cache, **{**options, "max_new_tokens": 8})
        assert torch.equal(rest, whole)
    assert not fast.report.notes


def test_a_static_cache_of_the_users() -> None:
    model = made(gpt2)
    fast = optimized(model)
    cache = StaticCache(config=model.config, max_cache_len=40)
    options: dict[str, Any] = {"do_sample": False, "pad_token_id": 0, "max_new_tokens": 6}
    ids = prompt(1, 6)["input_ids"]
    assert torch.equal(fast.generate(ids, past_key_values=cache, **options), model.generate(ids, **options))
    assert cache.layers[0].keys.shape[2] == 40
    assert int(cache.get_seq_length()) == 11  # the last token is not run
    assert fast.report.graphs


def test_calls_share_graphs() -> None:
    """One for prompts and one for tokens; at the second length of either, one more."""
    model = made(gpt2)
    fast = optimized(model)
    options: dict[str, Any] = {"do_sample": False, "pad_token_id": 0}
    for length, new in ((6, 5), (6, 30), (6, 58)):  # a cache of 64
        fast.generate(**prompt(1, length), max_new_tokens=new, **options)
    assert len(fast.report.graphs) == 2
    for length in (7, 9, 20):
        fast.generate(**prompt(1, length), max_new_tokens=5, **options)
    assert len(fast.report.graphs) == 3
    for length, new in ((7, 90), (9, 150), (12, 300)):
        fast.generate(**prompt(1, length), max_new_tokens=new, **options)
    assert len(fast.report.graphs) == 5


def test_the_cache_is_written_in_place() -> None:
    """By prompts and by tokens: compiled code allocates nothing of the size of a cache."""
    model = made(llama)
    fast = optimized(model, backend="inductor")
    fast.generate(**prompt(1, 6), max_new_tokens=90, do_sample=False, pad_token_id=0)  # a cache of 128: no other size
    for step in fast._generation._steps.values():
        (call,) = step._compiled
        written = {call.after.mutations[at].target for at in call.compiled.in_place}
        assert written == {"keys_0", "keys_1", "values_0", "values_1"}
        shapes = re.findall(r"= empty_strided_cpu\(\(([^)]*)\)", call.compiled.code)
        assert shapes
        assert not [shape for shape in shapes if "128, 8" in shape]


def test_a_changed_weight_is_seen() -> None:
    model = made(gpt2)
    fast = optimized(model)
    before = same_tokens(fast, model, prompt(1, 6))
    with torch.no_grad():
        model.transformer.h[1].mlp.c_fc.weight.mul_(-3)
    assert not torch.equal(same_tokens(fast, model, prompt(1, 6)), before)


def test_the_model_is_looked_at_once_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """For prompts and for tokens; a weight that is another one afterwards is seen by the next call."""
    model = made(gpt2)
    fast = optimized(model)
    before = same_tokens(fast, model, prompt(1, 6))
    looks = []
    change = ModelState.change
    monkeypatch.setattr(ModelState, "change", lambda self: looks.append(self) or change(self))
    assert torch.equal(same_tokens(fast, model, prompt(1, 6)), before)
    assert len(looks) == len(set(looks)) == 2
    feed = model.transformer.h[1].mlp.c_fc
    feed.weight = nn.Parameter(feed.weight.detach() * -3)
    assert not torch.equal(same_tokens(fast, model, prompt(1, 6)), before)


# -- what runs in eager, and says so ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"use_cache": False}, "use_cache is off"),
        ({"cache_implementation": "dynamic"}, "the cache is dynamic"),
        ({"past_key_values": "dynamic"}, "past_key_values is a DynamicCache"),
        ({"guidance_scale": 1.5}, "guidance_scale is given"),
        ({"prompt_lookup_num_tokens": 2}, "assisted generation"),
    ],
    ids=str,
)
def test_what_is_not_compiled(options: dict[str, Any], reason: str, caplog: pytest.LogCaptureFixture) -> None:
    model = made(llama)
    fast = optimized(model)
    each = [dict(options), dict(options)]
    if "past_key_values" in options:
        each = [{"past_key_values": DynamicCache(config=model.config)} for _ in each]
    inputs = {**prompt(1, 6), "max_new_tokens": 5, "do_sample": False, "pad_token_id": 0}
    assert torch.equal(fast.generate(**inputs, **each[0]), model.generate(**inputs, **each[1]))
    (note,) = fast.report.notes
    assert reason in note
    assert note in caplog.text
    assert not fast.report.graphs


def test_training_mode() -> None:
    model = made(gpt2)
    fast = optimized(model).train()
    same_tokens(fast, model, prompt(1, 6))
    assert "training mode" in fast.report.notes[0]
    same_tokens(fast.eval(), model, prompt(1, 6))
    assert fast.report.graphs


def test_an_encoder_decoder() -> None:
    sizes = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 1, "num_heads": 4, "vocab_size": WORDS}
    model = made(lambda: T5ForConditionalGeneration(T5Config(decoder_start_token_id=0, **sizes)))
    fast = optimized(model)
    same_tokens(fast, model, prompt(2, 6))
    assert "encoder-decoder" in fast.report.notes[0]


def test_models_without_generate() -> None:
    with pytest.raises(AttributeError, match="generate"):
        optimized(MLP()).generate  # noqa: B018
    with pytest.raises(AttributeError, match="generate"):
        optimized(ZOO["bert-sdpa"].model()).generate  # noqa: B018


def test_the_original_is_not_changed() -> None:
    model = made(gpt2)
    before = dict(vars(model))
    optimized(model).generate(**prompt(1, 6), max_new_tokens=3, pad_token_id=0)
    assert vars(model).keys() == before.keys()
    assert all(vars(model)[name] is value for name, value in before.items())
