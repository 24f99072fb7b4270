"""int8 by others, and txgraph under budgets. What needs a calibration gets batches of :mod:`benchmarks.calibration`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.calibration import batches
from benchmarks.decoding import GreedyDecoding
from txgraph import Budget, default_pipeline, optimize
from txgraph.bench.competitors import Competitor, Run
from txgraph.bench.competitors import onnx_runtime as peers
from txgraph.bench.competitors import txgraph as ours
from txgraph.passes import WeightOnly, for_every_call
from txgraph.rewrite import LossyPass


class TorchDynamicInt8(Competitor):
    """fbgemm: weights by output channel, inputs by tensor."""

    name = "torch-int8"

    def build(self, model: nn.Module, inputs: Mapping[str, Any]) -> Run:
        quantized = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)

        def run(inputs: Mapping[str, Any]) -> Any:
            with torch.no_grad():
                return quantized(**inputs)

        return run


class OnnxRuntimeInt8(peers.OnnxRuntime):
    """quantize_dynamic, weights by output channel."""

    name = "onnxruntime-int8"

    def prepare(self, model: nn.Module, inputs: Mapping[str, Any], folder: Path) -> Path:
        import onnx
        from onnxruntime.quantization import QuantType, quantize_dynamic

        whole, made = folder / "whole.onnx", folder / "int8.onnx"
        onnx.save_model(onnx.load(super().prepare(model, inputs, folder)), whole)  # one file: what it reads
        quantize_dynamic(whole, made, per_channel=True, weight_type=QuantType.QInt8)
        return made


class Dense(ours.Txgraph):
    """Exact, with padding computed as it comes."""

    name = "txgraph-dense"

    def build(self, model: nn.Module, inputs: Mapping[str, Any]) -> Run:
        fast = self.fast = optimize(model, kwargs=inputs, passes=for_every_call(default_pipeline()))
        return lambda inputs: fast(**inputs)


class UnderBudget(ours.Txgraph):
    """Lossy, within a relative error; ``dense``: padding is computed as it comes."""

    limit = 0.0
    dense = True
    search_seconds = Budget(relative_error=1.0).seconds

    def build(self, model: nn.Module, inputs: Mapping[str, Any]) -> Run:
        passes = for_every_call(default_pipeline()) if self.dense else default_pipeline()
        budget, calibration = Budget(relative_error=self.limit), batches(model, inputs)
        fast = self.fast = optimize(
            model, kwargs=inputs, passes=passes, padding=self.padding, budget=budget, calibration=calibration
        )
        return lambda inputs: fast(**inputs)

    def details(self) -> dict[str, Any]:
        assert self.fast is not None, "build comes first"
        spending = self.fast.report.budget
        assert spending is not None, "there is a budget"
        done = ", ".join(f"{count} x {method}" for method, count in spending.methods.items())
        held_out = f"{spending.held_out.relative_error:.3f} on calls held out"
        return {
            **super().details(),
            "note": f"{done or 'nothing lossy'}; {held_out}, {spending.seconds:.0f} s of search",
        }


class Dense002(UnderBudget):
    name = "txgraph-dense-0.02"
    limit = 0.02


class Dense005(UnderBudget):
    name = "txgraph-dense-0.05"
    limit = 0.05


class Dense014(UnderBudget):
    name = "txgraph-dense-0.14"
    limit = 0.14


class Packed005(UnderBudget):
    name = "txgraph-packed-0.05"
    limit = 0.05
    dense = False


class Decoding005(UnderBudget):
    """Prompts are the calibration; the budget is one of logits."""

    name = "txgraph-decoding-0.05"
    limit = 0.05
    method: LossyPass | None = None  # the only one, if there is one

    def build(self, model: nn.Module, inputs: Mapping[str, Any]) -> Run:
        assert isinstance(model, GreedyDecoding)
        passes = default_pipeline() if self.method is None else default_pipeline().append(self.method)
        budget, calibration = Budget(relative_error=self.limit), batches(model, inputs)
        fast = self.fast = optimize(model.decoder, passes=passes, budget=budget, calibration=calibration)
        decoding = GreedyDecoding(fast, model.new_tokens)
        return lambda inputs: decoding(**inputs)


class DecodingInt8Weights(Decoding005):
    """Of all methods only weights in 8 bits."""

    name = "txgraph-decoding-int8-weights"
    method = WeightOnly(bits=8)


class Zeros005(ours.TxgraphZeros, UnderBudget):
    name = "txgraph-zeros-0.05"
    limit = 0.05
    dense = False
    build = UnderBudget.build
