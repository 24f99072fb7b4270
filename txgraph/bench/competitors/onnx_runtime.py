"""ONNX Runtime on the model as torch exports it, and after ONNX Runtime's own optimizer of Transformers."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from txgraph.bench.competitors import Competitor, Run
from txgraph.bench.competitors.onnx_export import as_arrays, export_onnx

# The optimizer's name for a kind of model, by Hugging Face's; "qwen3" is its name for rotary decoders with RMSNorm.
MODEL_TYPES = {"bert": "bert", "gpt2": "gpt2", "llama": "qwen3", "t5": "t5", "vit": "vit"}


def open_session(path: Path) -> Any:
    """A session with all of ONNX Runtime's optimizations, and as many threads as torch has here."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


class OnnxRuntime(Competitor):
    """The file as it is exported."""

    name = "onnxruntime"
    packages: tuple[str, ...] = ("onnxruntime", "onnxscript")  # torch's exporter needs the latter

    def build(self, model: nn.Module, inputs: Mapping[str, Any]) -> Run:
        with tempfile.TemporaryDirectory() as folder:
            session = open_session(self.prepare(model, inputs, Path(folder)))
        names = [wanted.name for wanted in session.get_inputs()]
        return lambda inputs: session.run(None, as_arrays(inputs, names))

    def prepare(self, model: nn.Module, inputs: Mapping[str, Any], folder: Path) -> Path:
        """Write the file that is run."""
        return export_onnx(model, inputs, folder)


class OnnxRuntimeTransformers(OnnxRuntime):
    """The file after the optimizer that knows kinds of models."""

    name = "onnxruntime-transformers"
    packages = (*OnnxRuntime.packages, "onnxruntime.transformers.optimizer")

    def __init__(self) -> None:
        self._details: dict[str, Any] = {}

    def prepare(self, model: nn.Module, inputs: Mapping[str, Any], folder: Path) -> Path:
        from onnxruntime.transformers import optimizer

        config: Any = getattr(model, "config", None)
        kind = MODEL_TYPES[config.model_type] if config else "bert"
        optimized = optimizer.optimize_model(
            str(super().prepare(model, inputs, folder)),
            model_type=kind,
            num_heads=config.num_attention_heads if config else 0,  # 0: it finds them
            hidden_size=config.hidden_size if config else 0,
        )
        self._details = {"model_type": kind, "fused": dict(optimized.get_fused_operator_statistics())}
        path = folder / "optimized.onnx"
        optimized.save_model_to_file(str(path), use_external_data_format=True)
        return path

    def details(self) -> dict[str, Any]:
        return self._details
