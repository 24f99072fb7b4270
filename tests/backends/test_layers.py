"""Layers that are compiled once and run for each copy: the same numbers, less to compile, nothing kept alive."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import nn
from torch.export import Dim
from transformers import (
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

import txgraph
from tests.small import graph_of
from tests.zoo import OPTIONS, tokens
from txgraph.backends.inductor.program import Plan, Program, constant_nodes
from txgraph.backends.pieces import Piece, layers, whole
from txgraph.ir import Graph, interpret

CPU = txgraph.Target("cpu")
LAYERS = 4
SIZES = {"hidden_size": 32, "num_hidden_layers": LAYERS, "num_attention_heads": 4, "intermediate_size": 64}


def bert() -> nn.Module:
    return BertModel(BertConfig(**SIZES, vocab_size=100))


def gpt2() -> nn.Module:
    return GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=LAYERS, n_head=4, vocab_size=100, use_cache=True))


def llama() -> nn.Module:
    return LlamaForCausalLM(LlamaConfig(**SIZES, num_key_value_heads=2, vocab_size=100, use_cache=False))


def t5() -> nn.Module:
    sizes = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": LAYERS, "num_heads": 4, "vocab_size": 100}
    return T5ForConditionalGeneration(T5Config(**sizes, use_cache=False))


class Alternating(nn.Module):
    """Layers of two kinds, and one value that all of them read."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(6))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        shared, states = x.sin(), []
        for at, layer in enumerate(self.layers):
            x = x + (layer(x).relu() if at % 2 else layer(x).tanh() * shared)
            states.append(x)
        return *states, x.sum()


MODELS: dict[str, tuple[Any, dict[str, torch.Tensor]]] = {
    "bert": (bert, tokens(2, 12)),
    "gpt2 with a cache": (gpt2, tokens(2, 12)),
    "llama": (llama, tokens(2, 12)),
    "t5": (t5, {**tokens(2, 12), "decoder_input_ids": tokens(2, 5)["input_ids"]}),
    "alternating": (Alternating, {"x": torch.randn(2, 5, 8)}),
}


def made(name: str) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    make, inputs = MODELS[name]
    return make().eval(), inputs


@pytest.mark.parametrize("name", MODELS)
def test_pieces_compute_the_graph(name: str) -> None:
    """Each by the code of its first copy, interpreted."""
    model, inputs = made(name)
    graph = graph_of(model, **inputs)
    pieces = layers(graph, CPU, wanted=True)
    assert sum(piece.like != number for number, piece in enumerate(pieces)) >= 2
    assert sorted(n for piece in pieces for n in piece.names) == sorted(node.name for node in graph.calls())
    results = run(graph, pieces, functions(graph, pieces), list(inputs.values()))
    for ours, theirs in zip(results, interpret(graph, list(inputs.values())), strict=True):
        assert torch.equal(ours, theirs) if isinstance(theirs, torch.Tensor) else ours == theirs


def functions(graph: Graph, pieces: list[Piece]) -> dict[int, Any]:
    parts = {number: piece.graph(graph) for number, piece in enumerate(pieces) if piece.like == number}
    return {number: lambda *values, part=part: interpret(part, values) for number, part in parts.items()}


def run(graph: Graph, pieces: list[Piece], compiled: dict[int, Any], tensors: list[torch.Tensor]) -> Sequence[Any]:
    weights = [graph.constants[str(node.target)] for node in constant_nodes(graph)]
    return Program(Plan.of(graph, pieces, {}), compiled, weights).run(tensors)


def test_one_piece() -> None:
    """Where layers are small, few or not wanted."""
    model, inputs = made("bert")
    graph = graph_of(model, **inputs)
    assert layers(graph, CPU) == layers(graph, CPU, wanted=False) == whole(graph)
    model.encoder.layer = model.encoder.layer[:2]
    assert len(layers(graph_of(model, **inputs), CPU, wanted=True)) == 1


def test_layers_that_take_long_are_pieces() -> None:
    torch.manual_seed(0)
    config = BertConfig(num_hidden_layers=3, vocab_size=100)
    pieces = layers(graph_of(BertModel(config).eval(), **tokens(1, 128)), CPU)
    assert [piece.like for piece in pieces] == [0, 1, 1, 1, 4]


class TwiceTheSame(nn.Module):
    """The first copy takes one value twice, the others take two values."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        before = x
        for layer in self.layers:
            x, before = layer(x).relu() * before + x.sin(), x
        return x


def test_a_copy_whose_inputs_are_one_value() -> None:
    torch.manual_seed(0)
    model, x = TwiceTheSame().eval(), torch.randn(3, 8)
    graph = graph_of(model, x=x)
    pieces = layers(graph, CPU, wanted=True)
    (result,) = run(graph, pieces, functions(graph, pieces), [x])
    assert torch.equal(result, interpret(graph, [x])[0])


def test_weights_that_lie_in_memory_in_other_ways() -> None:
    model, inputs = made("alternating")
    model.layers[3].weight = nn.Parameter(model.layers[3].weight.detach().t().contiguous().t())
    graph = graph_of(model, **inputs)
    assert len(layers(graph, CPU, wanted=True)) == 1
    assert len(layers(graph_of(*made("alternating")[:1], **inputs), CPU, wanted=True)) > 3


@pytest.mark.parametrize("name", [name for name in MODELS if name != "llama"])  # which is, with sizes that vary, below
def test_compiled(name: str) -> None:
    model, inputs = made(name)
    once, always = (
        txgraph.optimize(model, kwargs=inputs, backend="inductor", options={"layers": wanted})
        for wanted in (True, False)
    )
    assert once.code().count("def call(") > 1
    assert always.code().count("def call(") == 1
    assert not once.report.fallbacks
    with torch.no_grad():
        for ours, theirs in zip(_leaves(once(**inputs)), _leaves(model(**inputs)), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("name", ["bert", "llama"])
def test_sizes_that_vary(name: str) -> None:
    model, inputs = made(name)
    axes = {key: {0: Dim("batch", min=2, max=64), 1: Dim("length", min=2, max=64)} for key in inputs}
    fast = txgraph.optimize(model, kwargs=inputs, dynamic_shapes=axes, backend="inductor", options={"layers": True})
    assert not fast.report.fallbacks
    for batch, length in ((2, 12), (5, 7)):
        inputs = tokens(batch, length)
        with torch.no_grad():
            for ours, theirs in zip(_leaves(fast(**inputs)), _leaves(model(**inputs)), strict=True):
                torch.testing.assert_close(ours, theirs, rtol=2e-5, atol=2e-5)
    assert len(fast.report.graphs) == 1


def test_without_padding() -> None:
    """The number of tokens is a size that no input has."""
    model, _ = made("bert")
    inputs = {**tokens(3, 12), "attention_mask": (torch.arange(12) < torch.tensor([[12], [5], [3]])).long()}
    options = {**OPTIONS, "layers": True}
    fast = txgraph.optimize(model, kwargs=inputs, padding="zeros", backend="inductor", options=options)
    valid = inputs["attention_mask"].bool()
    with torch.no_grad():
        ours, theirs = fast(**inputs)[0], model(**inputs)[0]
    torch.testing.assert_close(ours[valid], theirs[valid], rtol=2e-5, atol=2e-5)
    assert not fast.report.fallbacks


def test_values_are_freed_after_their_last_use() -> None:
    model, inputs = made("alternating")
    graph = graph_of(nn.Sequential(*[nn.Sequential(layer, nn.Tanh()) for layer in model.layers]), input=inputs["x"])
    pieces = layers(graph, CPU, wanted=True)
    alive: list[weakref.ref[torch.Tensor]] = []
    most = 0

    def watched(function: Any) -> Any:
        def run(*values: Any) -> Any:
            nonlocal most
            results = function(*values)
            alive.extend(map(weakref.ref, results))
            del values
            gc.collect()
            most = max(most, sum(each() is not None for each in alive))
            return results

        return run

    run(graph, pieces, {at: watched(f) for at, f in functions(graph, pieces).items()}, [inputs["x"]])
    assert len(alive) >= 6
    assert most <= 2


def _leaves(value: Any) -> list[torch.Tensor]:
    return [leaf for leaf in torch.utils._pytree.tree_leaves(value) if isinstance(leaf, torch.Tensor)]
