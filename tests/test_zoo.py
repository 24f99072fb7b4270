"""Every architecture of the zoo through the whole road, static and dynamic, judged on inputs it has not seen."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch.utils import _pytree as pytree

import txgraph
from tests.zoo import OPTIONS, ZOO, Architecture
from tests.zoo.counts import Counts, in_graph
from txgraph.ir import Graph, op_name, type_of
from txgraph.verify import check_gates, reference

COMPILED = [  # by Inductor, too: one of each kind, since compiling takes long
    *("gpt2-sdpa", "llama-sdpa", "t5-sdpa", "bart-sdpa", "vit-sdpa", "whisper-encoder-sdpa", "bert-eager"),
    *("nn.Transformer", "nn.MultiheadAttention-weights"),
]
DYNAMIC = [  # sizes that vary, too: one of each way to make masks, positions and caches, since capturing takes long
    *("bert-sdpa", "gpt2-unmasked-sdpa", "llama-unmasked-sdpa", "mistral-sdpa", "t5-sdpa"),
    *("bert-eager", "mpnet-eager", "deberta-v2-eager", "gpt2-eager", "gpt-j-eager", "bloom-eager", "opt-eager"),
    *("falcon-alibi-eager", "llama-eager", "mistral-eager", "gemma2-eager", "mixtral-eager", "t5-eager", "mbart-eager"),
    *("vit-eager", "beit-eager", "clip-eager", "wav2vec2-masked-eager"),
    *("nn.TransformerEncoder", "nn.Transformer", "nn.MultiheadAttention-weights"),
]
STATIC_SHAPES = ((2, 12),)
DYNAMIC_SHAPES = ((2, 12), (3, 9), (5, 7))


architectures = pytest.mark.parametrize("architecture", ZOO.values(), ids=ZOO.keys())


def shapes(architecture: Architecture) -> tuple[tuple[int, int], ...]:
    """Those that it is called with."""
    return DYNAMIC_SHAPES if architecture.name in DYNAMIC else STATIC_SHAPES


@functools.cache
def optimized(architecture: Architecture) -> tuple[txgraph.OptimizedModel, list[Graph]]:
    """Called with every shape, for all tests; and the graphs that answer these calls."""
    fast = txgraph.optimize(architecture.model(), backend="reference", options=OPTIONS)
    graphs = []
    for shape in shapes(architecture):
        fast(**architecture.inputs(*shape))
        graphs.append(fast.graph_after)
    return fast, graphs


def assert_same(fast: Any, architecture: Architecture, model: torch.nn.Module, batch: int, length: int) -> None:
    """The gates hold on fresh inputs, and the output has eager's structure."""
    inputs = architecture.fresh(batch, length)
    truth = reference(model, (), inputs)
    output = fast(**inputs)
    leaves, spec = pytree.tree_flatten(output)
    assert spec == truth.spec
    failed = [str(g) for g in check_gates(leaves, truth.eager, truth.oracle) if not g.passed]
    assert not failed, failed


@architectures
def test_static_and_dynamic(architecture: Architecture) -> None:
    """Two graphs answer any number of shapes; nothing falls back, nothing is rolled back."""
    fast, _ = optimized(architecture)
    for shape in shapes(architecture):
        assert_same(fast, architecture, architecture.model(), *shape)
    assert len(fast.report.graphs) == min(2, len(shapes(architecture)))
    assert fast.report.fallbacks == []
    assert [p["name"] for p in fast.report.to_dict()["passes"] if p["status"] == "rolled back"] == []


@architectures
def test_every_attention_is_one_operator(architecture: Architecture) -> None:
    """Attention is found in both implementations of every architecture."""
    for graph in optimized(architecture)[1]:
        assert in_graph(graph).attentions == (architecture.counts.attentions if architecture.fused else 0)
        softmaxes = [n for n in graph.calls() if op_name(n) == "softmax" and type_of(n).rank > 2]  # type: ignore[union-attr]
        assert bool(softmaxes) == (not architecture.fused)


@architectures
def test_every_norm_is_one_operator(architecture: Architecture) -> None:
    """Norms are whole, whatever the model makes them of."""
    for graph in optimized(architecture)[1]:
        assert in_graph(graph).norms == architecture.counts.norms


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("bert-sdpa", Counts(attentions=2, projections=2, norms=5, activations=2)),
        ("bert-eager", Counts(attentions=2, projections=2, norms=5, activations=2)),
        (
            "clip-eager",
            Counts(attentions=2, projections=2, norms=7, activations=2),
        ),  # GELU is not one operator of ATen here
        ("mixtral-sdpa", Counts(attentions=1, projections=1, norms=3, activations=1)),  # routers have a softmax, too
        (
            "t5-eager",
            Counts(attentions=6, projections=5, norms=12, activations=4),
        ),  # RMSNorm is not one operator of ATen here
        (
            "wav2vec2-masked-sdpa",
            Counts(attentions=1, projections=1, norms=6, activations=4),
        ),  # layers are named after norms
        ("nn.Transformer", Counts(attentions=6, projections=0, norms=12, activations=4)),  # activations are no modules
        ("nn.MultiheadAttention-weights", Counts(attentions=1, projections=0, norms=0, activations=0)),
    ],
)
def test_what_a_model_has_is_counted_in_eager(name: str, counts: Counts) -> None:
    """The truth that the other tests compare with."""
    assert ZOO[name].counts == counts


@pytest.mark.parametrize("name", [n for n in ZOO if n.startswith(("gpt2-unmasked", "llama-unmasked"))])
def test_causal_masks_are_recognised(name: str) -> None:
    """Without a padding mask no mask tensor is left in a decoder, also with dynamic sizes."""
    _, graphs = optimized(ZOO[name])
    for graph in graphs:
        calls = [n for n in graph.calls() if op_name(n) == "scaled_dot_product_attention"]
        assert [(n.args[3], n.args[5]) for n in calls] == [(None, True)] * 2


@pytest.mark.parametrize("name", [n for n in ZOO if n.startswith(("mistral-", "gemma3-", "llama4-", "modernbert-"))])
def test_windows_are_recognised(name: str) -> None:
    """Sliding windows, bands and chunks that are shorter than the sequence, unless padding is hidden as well."""
    _, graphs = optimized(ZOO[name])
    for graph in graphs:
        windows = [n for n in graph.calls() if op_name(n) == "txgraph::window_attention"]
        masked = [n for n in graph.calls() if op_name(n) == "scaled_dot_product_attention" and n.args[3] is not None]
        assert (len(windows), len(masked)) == ((1, 0) if "unmasked" in name else (0, 1))


@pytest.mark.parametrize("name", COMPILED)
def test_inductor(name: str) -> None:
    """The compiled code answers unseen inputs of the same shape."""
    architecture = ZOO[name]
    model = architecture.model()
    fast = txgraph.optimize(model, kwargs=architecture.inputs(2, 12), backend="inductor", verify="final")
    assert_same(fast, architecture, model, 2, 12)
    assert fast.report.fallbacks == []
    assert "async_compile" in fast.code()


@pytest.mark.parametrize(
    "name",
    ["bert-sdpa", "gpt2-unmasked-sdpa", "llama-sdpa", "mistral-unmasked-eager", "t5-eager", "nn.TransformerEncoder"],
)
def test_inductor_dynamic(name: str) -> None:
    """One dynamic graph is compiled for all later shapes."""
    architecture = ZOO[name]
    model = architecture.model()
    fast = txgraph.optimize(model, backend="inductor", verify="final")
    for batch, length in ((2, 12), (3, 9), (4, 11), (6, 17)):
        fast(**architecture.inputs(batch, length))
        assert_same(fast, architecture, model, batch, length)
    assert len(fast.report.graphs) == 2
    assert fast.report.fallbacks == []


def test_experts_are_not_copied_for_every_token() -> None:
    """Both products of the experts' feed-forward, with sizes that vary, too."""
    for graph in optimized(ZOO["mixtral-sdpa"])[1]:
        assert graph.count()["txgraph::expert_linear"] == 2
