"""What is compared. A competitor is one class in one module, so that a worker imports no other's library."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import nn

Run = Callable[[Mapping[str, torch.Tensor]], Any]


class Competitor(Protocol):
    """Makes a model ready to run. Its library is imported with its module, outside all timing."""

    @property
    def name(self) -> str:
        """How users name it."""

    def build(self, model: nn.Module, inputs: Mapping[str, torch.Tensor]) -> Run:
        """Compile ``model`` for inputs like these; what may be left to the first call counts as cold time, too.

        The returned function takes the inputs. Its outputs are tensors or arrays, in any nesting, in the order
        in which eager gives them.
        """

    def details(self) -> Mapping[str, Any]:
        """Whatever is worth keeping in the JSON: plain data; asked for after the first call.

        ``note`` is a sentence that is shown with the times.
        """


class ZeroPadding:
    """A competitor that promises zeros at masked positions, where others promise eager's values."""


COMPETITORS: Mapping[str, str] = {
    "eager": "benchmarks.competitors.eager:Eager",
    "eager-static-cache": "benchmarks.competitors.decoding:EagerStaticCache",
    "torch.compile": "benchmarks.competitors.torch_compile:TorchCompile",
    "torch.compile-max-autotune": "benchmarks.competitors.torch_compile:TorchCompileMaxAutotune",
    "torch.compile-static-cache": "benchmarks.competitors.decoding:TorchCompileStaticCache",
    "onnxruntime": "benchmarks.competitors.onnx_runtime:OnnxRuntime",
    "onnxruntime-transformers": "benchmarks.competitors.onnx_runtime:OnnxRuntimeTransformers",
    "onnxruntime-decoding": "benchmarks.competitors.onnx_decoding:OnnxRuntimeDecoding",
    "openvino": "benchmarks.competitors.openvino:OpenVino",
    "txgraph": "benchmarks.competitors.txgraph:Txgraph",
    "txgraph-zeros": "benchmarks.competitors.txgraph:TxgraphZeros",
}
DEFAULT_COMPETITORS = ("eager", "torch.compile", "txgraph")
INSTALL = "pip install -c constraints.txt -e '.[bench]'"  # all of their packages
OURS = "txgraph"  # what the names of our own competitors begin with: they are no peers
