"""OpenVINO's CPU plugin, in float32."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from txgraph.bench.competitors import Competitor, Run
from txgraph.bench.competitors.onnx_export import as_arrays, export_onnx


class OpenVino(Competitor):
    """By way of the ONNX file that torch exports."""

    name = "openvino"
    packages = ("openvino", "onnxscript")

    def build(self, model: nn.Module, inputs: Mapping[str, Any]) -> Run:
        import openvino

        settings = {
            "INFERENCE_PRECISION_HINT": "f32",  # on processors that have bfloat16, the default is bfloat16
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "PERFORMANCE_HINT": "LATENCY",
        }
        with tempfile.TemporaryDirectory() as folder:
            converted = openvino.convert_model(export_onnx(model, inputs, Path(folder)))
            compiled = openvino.compile_model(converted, "CPU", settings)
        names = [port.get_any_name() for port in compiled.inputs]
        request = compiled.create_infer_request()

        def run(inputs: Mapping[str, Any]) -> list[Any]:
            results = request.infer(as_arrays(inputs, names), share_inputs=True, share_outputs=True)
            return [results[port] for port in compiled.outputs]

        return run
