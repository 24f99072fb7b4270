"""Attention heads are found in the forms that models have, and can be taken out."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers as hf
from torch import nn

import txgraph
from tests.helpers import normal
from tests.passes.sparsity.silenced import assert_kept
from tests.small import graph_of, traced
from txgraph.backends import choose_backend
from txgraph.ir.padding import masks_of
from txgraph.passes import with_zero_padding
from txgraph.passes.sparsity.channels import hidden_channels
from txgraph.passes.sparsity.heads import attention_heads, heads_of
from txgraph.passes.sparsity.rules import ATTENTION
from txgraph.rewrite import Reject

Tensor = torch.Tensor
tx = torch.ops.txgraph
IDS = torch.arange(14).view(2, 7)
PADDING = torch.tensor([[1] * 7, [1] * 2 + [0] * 5])
X = normal(2, 5, 8)
Q, K, V, OUT = normal(24, 8), normal(24, 8) + 0.1, normal(24, 8) - 0.1, normal(6, 24)

_SMALL = {"vocab_size": 99, "num_hidden_layers": 1, "num_attention_heads": 4, "hidden_size": 32}
_DECODER = {**_SMALL, "intermediate_size": 64, "use_cache": False, "eos_token_id": 1, "bos_token_id": 1}
MODELS: dict[str, tuple[Callable[[], nn.Module], dict[str, Tensor]]] = {
    "BERT": (lambda: hf.BertModel(hf.BertConfig(**_SMALL, intermediate_size=64)), {"input_ids": IDS}),
    "BERT padded": (
        lambda: hf.BertModel(hf.BertConfig(**_SMALL, intermediate_size=64)),
        {"input_ids": IDS, "attention_mask": PADDING},
    ),
    "GPT-2": (
        lambda: hf.GPT2Model(
            hf.GPT2Config(
                vocab_size=99, n_embd=32, n_layer=1, n_head=4, use_cache=False, bos_token_id=1, eos_token_id=1
            )
        ),
        {"input_ids": IDS},
    ),
    "Llama": (lambda: hf.LlamaModel(hf.LlamaConfig(**_DECODER, num_key_value_heads=2)), {"input_ids": IDS}),
    "Mistral": (
        lambda: hf.MistralModel(hf.MistralConfig(**_DECODER, num_key_value_heads=2, sliding_window=3)),
        {"input_ids": IDS},
    ),
    "Phi-3": (
        lambda: hf.Phi3Model(hf.Phi3Config(**_DECODER, num_key_value_heads=2, pad_token_id=0)),
        {"input_ids": IDS},
    ),
    "NeoX": (lambda: hf.GPTNeoXModel(hf.GPTNeoXConfig(**_DECODER)), {"input_ids": IDS}),
    "T5": (
        lambda: hf.T5EncoderModel(hf.T5Config(vocab_size=99, d_model=32, d_kv=8, num_layers=1, num_heads=4, d_ff=64)),
        {"input_ids": IDS},
    ),
    "TransformerEncoderLayer": (
        lambda: nn.TransformerEncoderLayer(32, 4, 64, batch_first=True),
        {"src": normal(2, 7, 32)},
    ),
}


@functools.cache
def model(name: str) -> nn.Module:
    """Small, with weights so large that every head matters."""
    torch.manual_seed(0)
    made = MODELS[name][0]().eval()
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.ndim == 2:
                parameter.copy_(torch.randn_like(parameter) / parameter.shape[1] ** 0.5)
    return made


@pytest.mark.parametrize("backend", ["reference", "inductor"])
@pytest.mark.parametrize("name", MODELS)
def test_models(name: str, backend: str) -> None:
    """As the default pipeline leaves them for each backend: with joint linears, fused activations, packed tokens."""
    target, inputs = txgraph.Target("cpu"), MODELS[name][1]
    graph = graph_of(model(name), **inputs)
    masks = masks_of(graph, inputs.values())
    fused = choose_backend(backend).fused_activations(target)
    pipeline = with_zero_padding(txgraph.default_pipeline())
    graph, _ = pipeline.run(graph, txgraph.PassContext(target, fused, inputs=masks))
    values = [*inputs.values()]
    assert_kept(graph, values, blocks=1, heads=True)
    assert_kept(graph, values, blocks=1)
    assert ("txgraph::ragged_attention" in graph.count()) is (name == "BERT padded")
    assert ("txgraph::window_attention" in graph.count()) is (name == "Mistral")


def split(x: Tensor, heads: int) -> Tensor:
    return x.reshape(*x.shape[:2], heads, -1).transpose(1, 2)


def projected(x: Tensor, q: Tensor, k: Tensor, v: Tensor, heads: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    query, key, value = (split(F.linear(x, w), heads * len(w) // len(q)) for w in (q, k, v))
    return query, key, value


def merged(attention: Tensor, out: Tensor) -> Tensor:
    return F.linear(attention.transpose(1, 2).reshape(2, 5, -1), out)


def plain(x: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor) -> Tensor:
    return merged(F.scaled_dot_product_attention(*projected(x, q, k, v)), out)


def masked(x: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, mask: Tensor) -> Tensor:
    return merged(F.scaled_dot_product_attention(*projected(x, q, k, v), mask), out)


def computed_mask(x: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, mask: Tensor) -> Tensor:
    return merged(F.scaled_dot_product_attention(*projected(x, q, k, v), mask.exp() + x[0, 0, 0]), out)


def capped(x: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor) -> Tensor:
    return merged(tx.softcap_attention(*projected(x, q, k, v), None, 0.5, 5.0), out)


def grouped(x: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor) -> Tensor:
    return merged(F.scaled_dot_product_attention(*projected(x, q, k, v), enable_gqa=True), out)


def repeated(x: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor) -> Tensor:
    """Heads of keys are copied for those of queries: not understood as heads, but as groups."""
    query, key, value = projected(x, q, k, v)
    key, value = (t.unsqueeze(2).expand(2, 2, 2, 5, 6).reshape(2, 4, 5, 6) for t in (key, value))
    return merged(F.scaled_dot_product_attention(query, key, value), out)


def one_key_head(x: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor) -> Tensor:
    """Nothing of the keys belongs to a head of queries."""
    query, key, value = projected(x, q, k, v)
    return merged(F.scaled_dot_product_attention(query, key.expand(2, 4, 5, 6), value), out)


FORMS: dict[str, tuple[Callable[..., Any], dict[str, Tensor], int]] = {
    "plain": (plain, {"q": Q, "k": K, "v": V, "out": OUT}, 4),
    "a mask for each head": (masked, {"q": Q, "k": K, "v": V, "out": OUT, "mask": normal(4, 5, 5)}, 4),
    "a mask for all heads": (masked, {"q": Q, "k": K, "v": V, "out": OUT, "mask": normal(1, 5, 5)}, 4),
    "computed masks": (computed_mask, {"q": Q, "k": K, "v": V, "out": OUT, "mask": normal(4, 5, 5)}, 4),
    "capped": (capped, {"q": Q, "k": K, "v": V, "out": OUT}, 4),
    "grouped": (grouped, {"q": Q, "k": K[:12], "v": V[:12], "out": OUT}, 2),
    "repeated": (repeated, {"q": Q, "k": K[:12], "v": V[:12], "out": OUT}, 2),
    "one head of keys": (one_key_head, {"q": Q, "k": K[:6], "v": V, "out": OUT}, 4),
}


@pytest.mark.parametrize("form", FORMS)
def test_forms(form: str) -> None:
    function, weights, count = FORMS[form]
    graph = traced(function, X, **weights)
    (block,) = attention_heads(graph)
    assert (block.count, block.heads) == (count, 4)
    assert block.columns.tolist() == [unit for unit in range(count) for _ in range(24 // count)]
    assert_kept(graph, [X], blocks=1, heads=True)


def reason(function: Callable[..., Any], *inputs: Tensor, **constants: Tensor) -> str:
    """Why the heads of the only attention stay."""
    graph = traced(function, *inputs, **constants)
    (attention,) = [n for n in graph.calls() if n.target in ATTENTION]
    verdict = heads_of(graph, attention)
    assert isinstance(verdict, Reject)
    assert not attention_heads(graph)
    return verdict.reason


def test_declines_what_it_does_not_understand() -> None:
    def cached(x: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor) -> tuple[Tensor, Tensor]:
        query, key, value = projected(x, q, k, v)
        return merged(F.scaled_dot_product_attention(query, key, value), out), key

    def talking(x: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor) -> Tensor:
        query, key, value = projected(x, q, k, v)
        return merged(F.scaled_dot_product_attention(query, key, value.softmax(1)), out)

    def without_projection(x: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(*projected(x, q, k, v))

    def one_head(x: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor) -> Tensor:
        return merged(F.scaled_dot_product_attention(*projected(x, q, k, v, heads=1)), out)

    weights = {"q": Q, "k": K, "v": V}
    assert reason(cached, X, **weights, out=OUT) == "%transpose_1 is an output of the graph"
    assert reason(talking, X, **weights, out=OUT) == "softmax mixes the units"
    assert "is an output of the graph" in reason(without_projection, X, **weights)
    assert reason(one_head, X, **weights, out=OUT) == "1 heads can be told apart"
    assert reason(plain, X, Q, k=K, v=V, out=OUT) == "%q is not a constant"
    unprojected = lambda x, y: F.scaled_dot_product_attention(split(x, 2), split(y, 2), split(y, 2))  # noqa: E731
    assert "of the graph" in reason(unprojected, X, X + 1)


def test_channels_of_a_projection_are_not_hidden() -> None:
    """What the output projection reads are heads: the features of one are mixed with those of no other."""
    assert hidden_channels(traced(plain, X, q=Q, k=K, v=V, out=OUT)) == []
