"""Real models at real size, and one with real, trained weights."""

from __future__ import annotations

import pytest
import torch
from transformers import BertConfig, BertModel, GPT2Config, GPT2Model, ViTConfig, ViTModel

import txgraph
from benchmarks.minilm import load_minilm, sentence_embeddings
from txgraph.verify import check_gates, reference


def _ids(batch: int, length: int) -> torch.Tensor:
    return torch.randint(0, 30000, (batch, length), generator=torch.Generator().manual_seed(0))


REAL_SIZE = {
    "bert-base": (lambda: BertModel(BertConfig()), lambda: {"input_ids": _ids(1, 128)}, 12),
    "gpt2-124m": (lambda: GPT2Model(GPT2Config()), lambda: {"input_ids": _ids(1, 64), "use_cache": False}, 12),
    "vit-b-16": (lambda: ViTModel(ViTConfig()), lambda: {"pixel_values": torch.randn(1, 3, 224, 224)}, 12),
}


@pytest.mark.parametrize("name", list(REAL_SIZE))
def test_real_size(name: str) -> None:
    """The compiled model holds every gate, and all attentions are found."""
    make, inputs, attentions = REAL_SIZE[name]
    torch.manual_seed(0)
    model = make().eval()
    given = inputs()
    fast = txgraph.optimize(model, kwargs=given, backend="inductor", verify="final")
    fresh = {k: v.flip(-1) if isinstance(v, torch.Tensor) else v for k, v in given.items()}
    truth = reference(model, (), fresh)
    leaves = torch.utils._pytree.tree_leaves(fast(**fresh))
    assert [str(g) for g in check_gates(leaves, truth.eager, truth.oracle) if not g.passed] == []
    assert fast.graph_after.count()["scaled_dot_product_attention"] == attentions
    assert fast.report.fallbacks == []


def test_trained_minilm_keeps_its_embeddings() -> None:
    """Sentence embeddings of real sentences by real weights point where they did, to 1e-5 of cosine."""
    model, batch = load_minilm()
    fast = txgraph.optimize(model, kwargs=batch, backend="inductor")
    with torch.no_grad():
        ours, eager = (sentence_embeddings(m(**batch)[0], batch["attention_mask"]) for m in (fast, model))
    cosine = torch.nn.functional.cosine_similarity(ours, eager)
    assert len(cosine) >= 32
    assert float((1 - cosine).abs().max()) <= 1e-5
    assert fast.report.fallbacks == []
    assert [p.name for g in fast.report.graphs for p in g.passes if p.status == "rolled back"] == []
