"""Greedy decoding by ``generate``: with a cache of fixed size, in eager and compiled by itself; and on our graphs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import CompileConfig

from benchmarks.decoding import GreedyDecoding
from txgraph import optimize
from txgraph.bench.competitors import Competitor, Run
from txgraph.bench.competitors import txgraph as ours


class EagerStaticCache(Competitor):
    name = "eager-static-cache"

    def build(self, model: nn.Module, inputs: Mapping[str, torch.Tensor]) -> Run:
        assert isinstance(model, GreedyDecoding)
        decoding = GreedyDecoding(model.decoder, model.new_tokens, cache_implementation="static")
        return lambda inputs: decoding(**inputs)


class TorchCompileStaticCache(Competitor):
    name = "torch.compile-static-cache"

    def build(self, model: nn.Module, inputs: Mapping[str, torch.Tensor]) -> Run:
        assert isinstance(model, GreedyDecoding)
        config = CompileConfig(mode="default")
        config._compile_all_devices = True  # generate leaves CPUs in eager otherwise
        decoding = GreedyDecoding(model.decoder, model.new_tokens, cache_implementation="static", compile_config=config)
        return lambda inputs: decoding(**inputs)

    def details(self) -> dict[str, Any]:
        return {"note": "generate compiles the steps; the prompt runs in eager"}


class Txgraph(ours.Txgraph):
    """Ahead of time; where the model decodes, lazily, by its own ``generate``."""

    def __init__(self) -> None:
        super().__init__()
        self._decodes = False

    def build(self, model: nn.Module, inputs: Mapping[str, Any]) -> Run:
        if not isinstance(model, GreedyDecoding):
            return super().build(model, inputs)
        self._decodes = True
        self.fast = optimize(model.decoder, options=self.options)
        decoding = GreedyDecoding(self.fast, model.new_tokens)
        return lambda inputs: decoding(**inputs)

    def details(self) -> dict[str, Any]:
        kept = super().details()
        note = {"note": "no graph was compiled: generate ran the original's eager forward"}
        return {**kept, **(note if self._decodes and not kept["graphs"] else {})}


class TxgraphCudaGraphs(Txgraph, ours.TxgraphCudaGraphs):
    """The same, recorded as CUDA graphs."""
