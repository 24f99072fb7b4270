"""Every competitor on tiny models: the same outputs as eager. Those whose packages are missing are skipped."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from torch import nn
from torch.utils import _pytree as pytree

from benchmarks.competitors import COMPETITORS
from benchmarks.decoding import GreedyDecoding
from benchmarks.rows import attended, tokens
from txgraph.bench import Inputs, look_up
from txgraph.bench.errors import compare_outputs, not_zero_at_padding

LENGTHS = (6, 3)


def bert() -> tuple[nn.Module, Inputs]:
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64
    )
    return transformers.BertModel(config), tokens(50, 2, 6, LENGTHS)


def torch_encoder() -> tuple[nn.Module, Inputs]:
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 2, 64, batch_first=True), 2)
    ignored = torch.arange(6) >= torch.tensor(LENGTHS)[:, None]
    return encoder, {"src": torch.randn(2, 6, 32), "src_key_padding_mask": ignored}


def gpt2() -> tuple[nn.Module, Inputs]:
    config = transformers.GPT2Config(
        vocab_size=50, n_embd=32, n_layer=2, n_head=2, n_positions=32, eos_token_id=None, bos_token_id=None
    )
    return GreedyDecoding(transformers.GPT2LMHeadModel(config), 5), tokens(50, 1, 4, [4])


def run(competitor: str, make: Callable[[], tuple[nn.Module, Inputs]]) -> tuple[list[Any], list[Any], Inputs, Any]:
    """The outputs of a competitor and of eager, the inputs, and the competitor."""
    if competitor.startswith("onnx") or competitor == "openvino":
        pytest.importorskip("onnxscript")
        pytest.importorskip(competitor.partition("-")[0])
    torch.manual_seed(0)
    model, inputs = make()
    model = model.eval()
    chosen = look_up(COMPETITORS[competitor])()
    with torch.no_grad():
        eager = pytree.tree_leaves(model(**inputs))
        ready = chosen.build(model, inputs)
        ready(inputs)
        outputs = pytree.tree_leaves(ready(inputs))
    return [torch.as_tensor(leaf) for leaf in outputs], eager, inputs, chosen


@pytest.mark.parametrize("make", [bert, torch_encoder])
@pytest.mark.parametrize(
    "competitor", ["eager", "torch.compile", "onnxruntime", "onnxruntime-transformers", "openvino", "txgraph"]
)
def test_competitor_gives_eager_values(competitor: str, make: Callable[[], tuple[nn.Module, Inputs]]) -> None:
    outputs, eager, inputs, _ = run(competitor, make)
    valid = attended(inputs) if "attention_mask" in inputs else ~inputs["src_key_padding_mask"]
    assert compare_outputs(outputs, eager, 1e-5, valid)["wrong"] == ""


@pytest.mark.slow
def test_max_autotune_gives_eager_values() -> None:
    outputs, eager, _, competitor = run("torch.compile-max-autotune", bert)
    assert compare_outputs(outputs, eager, 1e-5)["wrong"] == ""
    assert competitor.details()["freezing"] is True


def test_zeros_stand_at_the_padding() -> None:
    outputs, eager, inputs, _ = run("txgraph-zeros", bert)
    valid = attended(inputs)
    assert compare_outputs(outputs, eager, 1e-5, valid)["wrong"] == ""
    assert not_zero_at_padding(outputs, valid) == ""


@pytest.mark.parametrize(
    "competitor", ["eager-static-cache", "torch.compile-static-cache", "onnxruntime-decoding", "txgraph"]
)
def test_competitor_decodes_the_same_tokens(competitor: str) -> None:
    outputs, eager, _, _ = run(competitor, gpt2)
    assert compare_outputs(outputs, eager, 0.0)["wrong"] == ""
    assert eager[0].shape == (1, 9)


def test_what_generate_ran_is_said() -> None:
    _, _, _, competitor = run("txgraph", gpt2)
    details = competitor.details()
    assert ("note" in details) == (not details["graphs"])


def test_fusions_of_the_optimizer_are_kept() -> None:
    _, _, _, competitor = run("onnxruntime-transformers", bert)
    assert competitor.details()["model_type"] == "bert"
    assert competitor.details()["fused"]["SkipLayerNormalization"] > 0


@pytest.mark.parametrize("name", COMPETITORS)
def test_names_are_those_of_the_list(name: str) -> None:
    assert look_up(COMPETITORS[name])().name == name
