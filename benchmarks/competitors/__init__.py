"""The competitors of :mod:`txgraph.bench`, and those of rows that decode."""

from __future__ import annotations

from collections.abc import Mapping

from txgraph.bench import competitors

COMPETITORS: Mapping[str, str] = {
    **competitors.COMPETITORS,
    "eager-static-cache": "benchmarks.competitors.decoding:EagerStaticCache",
    "torch.compile-static-cache": "benchmarks.competitors.decoding:TorchCompileStaticCache",
    "onnxruntime-decoding": "benchmarks.competitors.onnx_decoding:OnnxRuntimeDecoding",
    "txgraph": "benchmarks.competitors.decoding:Txgraph",
    "txgraph-cuda-graphs": "benchmarks.competitors.decoding:TxgraphCudaGraphs",
    "torch-int8": "benchmarks.competitors.quantized:TorchDynamicInt8",
    "onnxruntime-int8": "benchmarks.competitors.quantized:OnnxRuntimeInt8",
    "txgraph-dense": "benchmarks.competitors.quantized:Dense",
    "txgraph-dense-0.02": "benchmarks.competitors.quantized:Dense002",
    "txgraph-dense-0.05": "benchmarks.competitors.quantized:Dense005",
    "txgraph-dense-0.14": "benchmarks.competitors.quantized:Dense014",
    "txgraph-decoding-0.05": "benchmarks.competitors.quantized:Decoding005",
    "txgraph-decoding-int8-weights": "benchmarks.competitors.quantized:DecodingInt8Weights",
    "txgraph-packed-0.05": "benchmarks.competitors.quantized:Packed005",
    "txgraph-zeros-0.05": "benchmarks.competitors.quantized:Zeros005",
}
INSTALL = "pip install -c constraints.txt -e '.[bench]'"  # all of their packages
