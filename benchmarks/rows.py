"""The models and inputs that are compared: seeded random weights, inference, float32 on CPUs.

"Dense" rows get no attention mask: every token counts. "Padded" rows have a mask with zeros at the end of each
sequence, as a tokenizer makes it, and say which positions of the outputs are valid.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import transformers
from torch import nn

from txgraph.bench import Inputs, Made, Row


def seeded(name: str, make: Callable[[], Made], **facts: Any) -> Row:
    """A row whose weights and inputs are the same in every process."""

    def make_seeded() -> Made:
        torch.manual_seed(0)
        model, inputs = make()
        return model.eval(), inputs

    return Row(name, make_seeded, **facts)


def tokens(vocabulary: int, B: int, S: int, lengths: Sequence[int] = ()) -> Inputs:
    """Random tokens [B, S]; with ``lengths``, a mask [B, S] too."""
    inputs = {"input_ids": torch.randint(1, vocabulary, (B, S))}
    if lengths:
        inputs["attention_mask"] = (torch.arange(S) < torch.tensor(lengths)[:, None]).long()
    return inputs


def attended(inputs: Inputs) -> torch.Tensor:
    """What the attention mask of Hugging Face models lets in."""
    return inputs["attention_mask"].bool()


def _bert(B: int, S: int, lengths: Sequence[int] = (), **sizes: Any) -> Callable[[], Made]:
    def make() -> Made:
        config = transformers.BertConfig(**sizes)
        return transformers.BertModel(config), tokens(config.vocab_size, B, S, lengths)

    return make


def _classifier(B: int, S: int, lengths: Sequence[int]) -> Made:
    """Only logits [B, 2] come out: nobody sees what stands at the padding."""
    config = transformers.BertConfig()
    return transformers.BertForSequenceClassification(config), tokens(config.vocab_size, B, S, lengths)


def _gpt2(B: int, S: int) -> Made:
    config = transformers.GPT2Config(use_cache=False)
    return transformers.GPT2LMHeadModel(config), tokens(config.vocab_size, B, S)


def _of_low_rank(model: nn.Module, rank: int, noise: float) -> nn.Module:
    """Each linear's weight becomes a product of that rank, of the same size, and a little noise of full rank."""
    for linear in (module for module in model.modules() if isinstance(module, nn.Linear)):
        N, K = linear.weight.shape
        product = torch.randn(N, rank) @ torch.randn(rank, K) / rank**0.5
        with torch.no_grad():
            linear.weight.copy_((product + noise * torch.randn(N, K)) * linear.weight.std())
    return model


def _bert_of_low_rank(B: int, S: int) -> Made:
    model, inputs = _bert(B, S)()
    return _of_low_rank(model, rank=64, noise=1e-3), inputs


def _vit(B: int) -> Made:
    return transformers.ViTModel(transformers.ViTConfig()), {"pixel_values": torch.randn(B, 3, 224, 224)}


def _llama(B: int, S: int) -> Made:
    config = transformers.LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        tie_word_embeddings=True,
        use_cache=False,
    )
    return transformers.LlamaForCausalLM(config), tokens(config.vocab_size, B, S)


def _t5(B: int, S: int, T: int) -> Made:
    config = transformers.T5Config(use_cache=False)  # its defaults are those of t5-small
    decoder_input_ids = torch.randint(1, config.vocab_size, (B, T))
    inputs = {**tokens(config.vocab_size, B, S), "decoder_input_ids": decoder_input_ids}
    return transformers.T5ForConditionalGeneration(config), inputs


def _torch_encoder(S: int, lengths: Sequence[int]) -> Made:
    layer = nn.TransformerEncoderLayer(512, 8, 2048, batch_first=True)
    ignored = torch.arange(S) >= torch.tensor(lengths)[:, None]
    return nn.TransformerEncoder(layer, 6), {
        "src": torch.randn(len(lengths), S, 512),
        "src_key_padding_mask": ignored,
    }


_MINILM: dict[str, Any] = {
    "hidden_size": 384,
    "num_hidden_layers": 6,
    "num_attention_heads": 12,
    "intermediate_size": 1536,
}
_LENGTHS = (128, 20, 35, 64, 15, 90, 28, 44)  # 41 % of 8 x 128
_HALF = (64, 58, 54, 50, 46, 42, 38, 34, 30, 26, 22, 18, 14, 8, 5, 3)  # half of 16 x 64

bert_base_1x128 = seeded("bert-base-1x128", _bert(1, 128))
bert_base_8x128 = seeded("bert-base-8x128", _bert(8, 128))
bert_base_8x128_padded = seeded("bert-base-8x128-padded", _bert(8, 128, _LENGTHS), valid=attended)
bert_classifier_8x128_padded = seeded(
    "bert-classifier-8x128-padded", lambda: _classifier(8, 128, _LENGTHS), valid=attended
)
gpt2_1x128 = seeded("gpt2-1x128", lambda: _gpt2(1, 128))
vit_base_1x224 = seeded("vit-base-1x224", lambda: _vit(1))
llama_135m_1x128 = seeded("llama-135m-1x128", lambda: _llama(1, 128))
t5_small_64_32 = seeded("t5-small-1x64-1x32", lambda: _t5(1, 64, 32))
torch_encoder_16x64_padded = seeded(
    "torch-encoder-16x64-padded",
    lambda: _torch_encoder(64, _HALF),
    valid=lambda inputs: ~inputs["src_key_padding_mask"],
)
bert_base_8x128_padded_lossy = replace(bert_base_8x128_padded, name="bert-base-8x128-padded-lossy", tolerance=0.5)
bert_base_rank_64_8x128 = replace(seeded("bert-base-rank-64-8x128", lambda: _bert_of_low_rank(8, 128)), tolerance=0.5)
minilm_shaped_32x64 = seeded("minilm-shaped-32x64", _bert(32, 64, **_MINILM))

ROWS: Mapping[str, str] = {
    "bert-base-1x128": "benchmarks.rows:bert_base_1x128",
    "bert-base-8x128": "benchmarks.rows:bert_base_8x128",
    "bert-base-8x128-padded": "benchmarks.rows:bert_base_8x128_padded",
    "bert-base-8x128-padded-lossy": "benchmarks.rows:bert_base_8x128_padded_lossy",
    "bert-base-rank-64-8x128": "benchmarks.rows:bert_base_rank_64_8x128",
    "minilm-embeddings-32": "benchmarks.minilm:minilm_embeddings_32",
    "minilm-real-32": "benchmarks.minilm:minilm_real_32",  # trained weights and real sentences, padded
    "minilm-shaped-32x64": "benchmarks.rows:minilm_shaped_32x64",
    "bert-classifier-8x128-padded": "benchmarks.rows:bert_classifier_8x128_padded",
    "gpt2-1x128": "benchmarks.rows:gpt2_1x128",
    "gpt2-decode-64": "benchmarks.decoding:gpt2_decode_64",
    "gpt2-decode-64-lossy": "benchmarks.decoding:gpt2_decode_64_lossy",
    "vit-base-1x224": "benchmarks.rows:vit_base_1x224",
    "llama-135m-1x128": "benchmarks.rows:llama_135m_1x128",
    "t5-small-1x64-1x32": "benchmarks.rows:t5_small_64_32",
    "torch-encoder-16x64-padded": "benchmarks.rows:torch_encoder_16x64_padded",
    "cuda-bert-large-32x512": "benchmarks.cuda_rows:bert_large_32x512",
    "cuda-bert-large-32x512-padded": "benchmarks.cuda_rows:bert_large_32x512_padded",
    "cuda-gpt2-xl-8x512": "benchmarks.cuda_rows:gpt2_xl_8x512",
    "cuda-bert-base-1x128": "benchmarks.cuda_rows:bert_base_1x128",
    "cuda-gpt2-decode-64": "benchmarks.cuda_rows:gpt2_decode_64",
}
DEFAULT_ROWS = ("bert-base-1x128", "bert-base-8x128")
