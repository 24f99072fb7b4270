"""Greedy decoding by Hugging Face's ``generate``, with a cache of fixed size: in eager, and compiled by itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import CompileConfig

from benchmarks.competitors import Run
from benchmarks.decoding import GreedyDecoding


class EagerStaticCache:
    name = "eager-static-cache"

    def build(self, model: nn.Module, inputs: Mapping[str, torch.Tensor]) -> Run:
        assert isinstance(model, GreedyDecoding)
        decoding = GreedyDecoding(model.decoder, model.new_tokens, cache_implementation="static")
        return lambda inputs: decoding(**inputs)

    def details(self) -> dict[str, Any]:
        return {}


class TorchCompileStaticCache:
    name = "torch.compile-static-cache"

    def build(self, model: nn.Module, inputs: Mapping[str, torch.Tensor]) -> Run:
        assert isinstance(model, GreedyDecoding)
        config = CompileConfig(mode="default")
        config._compile_all_devices = True  # generate leaves CPUs in eager otherwise
        decoding = GreedyDecoding(model.decoder, model.new_tokens, cache_implementation="static", compile_config=config)
        return lambda inputs: decoding(**inputs)

    def details(self) -> dict[str, Any]:
        return {"note": "generate compiles the steps; the prompt runs in eager"}
