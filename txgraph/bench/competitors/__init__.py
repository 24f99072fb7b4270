"""What is compared. A competitor is one class in one module, so that a worker imports no other's library."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

Run = Callable[[Mapping[str, Any]], Any]


class Competitor(ABC):
    """Makes a model ready to run.

    Attributes:
        name: how users name it.
        packages: modules that it needs and txgraph does not, each of a package that pip knows by the same name. The
            worker imports them outside all timing.
        search_seconds: that compiling may take beyond :attr:`Settings.cold_limit`: a search with a limit of its own.
    """

    name = ""
    packages: tuple[str, ...] = ()
    search_seconds: float = 0.0

    @abstractmethod
    def build(self, model: nn.Module, inputs: Mapping[str, Any]) -> Run:
        """Compile ``model`` for inputs like these; what may be left to the first call counts as cold time, too.

        The returned function takes the inputs. Its outputs are tensors or arrays, in any nesting, in the order
        in which eager gives them.
        """

    def details(self) -> Mapping[str, Any]:
        """Whatever is worth keeping in the JSON: plain data; asked for after the first call.

        ``note`` is a sentence that is shown with the times.
        """
        return {}


class ZeroPadding:
    """A competitor that promises zeros at masked positions, where others promise eager's values."""


COMPETITORS: Mapping[str, str] = {
    "eager": "txgraph.bench.competitors.eager:Eager",
    "torch.compile": "txgraph.bench.competitors.torch_compile:TorchCompile",
    "torch.compile-reduce-overhead": "txgraph.bench.competitors.torch_compile:TorchCompileReduceOverhead",
    "torch.compile-max-autotune": "txgraph.bench.competitors.torch_compile:TorchCompileMaxAutotune",
    "onnxruntime": "txgraph.bench.competitors.onnx_runtime:OnnxRuntime",
    "onnxruntime-transformers": "txgraph.bench.competitors.onnx_runtime:OnnxRuntimeTransformers",
    "openvino": "txgraph.bench.competitors.openvino:OpenVino",
    "txgraph": "txgraph.bench.competitors.txgraph:Txgraph",
    "txgraph-cuda-graphs": "txgraph.bench.competitors.txgraph:TxgraphCudaGraphs",
    "txgraph-zeros": "txgraph.bench.competitors.txgraph:TxgraphZeros",
}
DEFAULT_COMPETITORS = ("eager", "torch.compile", "txgraph")
OURS = "txgraph"  # what the names of our own competitors begin with: they are no peers
