"""Greedy decoding by ONNX Runtime: one graph for the prompt and for each step; what it keeps goes in again as it is."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.export import Dim
from transformers import DynamicCache

from benchmarks.decoding import GreedyDecoding
from txgraph.bench.competitors import Competitor, Run
from txgraph.bench.competitors.onnx_export import export_onnx
from txgraph.bench.competitors.onnx_runtime import OnnxRuntime, open_session


class Step(nn.Module):
    """Tokens [B, S]; keys, values [B, H, P, D] of each layer -> last logits [B, V]; keys, values [B, H, P + S, D]."""

    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, input_ids: torch.Tensor, past: list[torch.Tensor]) -> list[torch.Tensor]:
        cache = DynamicCache()
        for layer in range(len(past) // 2):
            cache.update(past[2 * layer], past[2 * layer + 1], layer)
        result = self.decoder(input_ids=input_ids, past_key_values=cache, use_cache=True)
        kept = [state for layer in result.past_key_values.layers for state in (layer.keys, layer.values)]
        return [result.logits[:, -1], *kept]


class OnnxRuntimeDecoding(Competitor):
    name = "onnxruntime-decoding"
    packages = OnnxRuntime.packages

    def build(self, model: nn.Module, inputs: Mapping[str, torch.Tensor]) -> Run:
        assert isinstance(model, GreedyDecoding)
        config = model.decoder.config
        B, H, D = 1, config.num_attention_heads, config.hidden_size // config.num_attention_heads
        states = 2 * config.num_hidden_layers
        example = {
            "input_ids": inputs["input_ids"][:, :3],  # sizes that differ, lest one is taken for the other
            "past": [torch.zeros(B, H, 5, D) for _ in range(states)],
        }
        growing = {"input_ids": {1: Dim.DYNAMIC}, "past": [{2: Dim.DYNAMIC}] * states}
        with tempfile.TemporaryDirectory() as folder:
            session = open_session(export_onnx(Step(model.decoder).eval(), example, Path(folder), growing))
        names = [wanted.name for wanted in session.get_inputs()]
        nothing = [np.zeros((B, H, 0, D), np.float32)] * states

        def run(inputs: Mapping[str, torch.Tensor]) -> Any:
            generated = [inputs["input_ids"].numpy()]
            kept = nothing
            for _ in range(model.new_tokens):
                logits, *kept = session.run(None, dict(zip(names, [generated[-1], *kept], strict=True)))
                generated.append(logits.argmax(-1, keepdims=True))
            return np.concatenate(generated, axis=1)

        return run

    def details(self) -> dict[str, Any]:
        return {"note": "a loop of its own in place of generate"}
