"""Every architecture of the zoo through the whole road, static and dynamic, judged on inputs it has not seen."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils import _pytree as pytree

import txgraph
from tests.zoo import ZOO, Architecture
from txgraph.verify import check_gates, reference

ARCHITECTURES = pytest.mark.parametrize("architecture", ZOO.values(), ids=list(ZOO))


def assert_same(fast: Any, architecture: Architecture, model: torch.nn.Module, batch: int, length: int) -> None:
    """The gates hold on fresh inputs, and the output has eager's structure."""
    inputs = architecture.fresh(batch, length)
    truth = reference(model, (), inputs)
    output = fast(**inputs)
    leaves, spec = pytree.tree_flatten(output)
    assert spec == truth.spec
    failed = [str(g) for g in check_gates(leaves, truth.eager, truth.oracle) if not g.passed]
    assert not failed, failed


@ARCHITECTURES
def test_static_and_dynamic(architecture: Architecture) -> None:
    """Two graphs answer any number of shapes; nothing falls back, nothing is rolled back."""
    model = architecture.model()
    fast = txgraph.optimize(model, backend="reference")
    for batch, length in ((2, 12), (3, 9), (4, 11), (2, 12), (5, 7)):
        fast(**architecture.inputs(batch, length))
        assert_same(fast, architecture, model, batch, length)
    assert len(fast.report.graphs) == 2
    assert fast.report.fallbacks == []
    assert [p["name"] for p in fast.report.to_dict()["passes"] if p["status"] == "rolled back"] == []


@ARCHITECTURES
def test_every_attention_is_one_operator(architecture: Architecture) -> None:
    """Attention is found in both implementations of every architecture, and norms are whole."""
    inputs = architecture.inputs(2, 12)
    fast = txgraph.optimize(architecture.model(), kwargs=inputs, backend="reference", verify="off")
    counts = fast.graph_after.count()
    assert counts.get("scaled_dot_product_attention", 0) == (architecture.attentions if architecture.fused else 0)
    assert ("softmax" in counts) == (not architecture.fused)
    assert "rsqrt" not in counts


@pytest.mark.parametrize("name", [n for n in ZOO if n.startswith(("gpt2-unmasked", "llama-unmasked"))])
def test_causal_masks_are_recognised(name: str) -> None:
    """Without a padding mask no mask tensor is left in a decoder, also with dynamic sizes."""
    architecture = ZOO[name]
    fast = txgraph.optimize(architecture.model(), backend="reference", verify="off")
    for batch, length in ((2, 12), (3, 9)):
        fast(**architecture.inputs(batch, length))
        calls = [n for n in fast.graph_after.calls() if "scaled_dot_product" in str(n.target)]
        assert [(n.args[3], n.args[5]) for n in calls] == [(None, True)] * 2


@pytest.mark.parametrize(
    "name",
    [n for n in ZOO if n.endswith("sdpa") and "unmasked" not in n]
    + ["nn.TransformerEncoder", "nn.Transformer", "nn.MultiheadAttention-weights", "bert-eager", "t5-eager"],
)
def test_inductor(name: str) -> None:
    """The compiled code answers unseen inputs of the same shape."""
    architecture = ZOO[name]
    model = architecture.model()
    fast = txgraph.optimize(model, kwargs=architecture.inputs(2, 12), backend="inductor", verify="final")
    assert_same(fast, architecture, model, 2, 12)
    assert fast.report.fallbacks == []
    assert "async_compile" in fast.code()


@pytest.mark.parametrize("name", ["bert-sdpa", "gpt2-unmasked-sdpa", "llama-sdpa", "t5-eager", "nn.TransformerEncoder"])
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
