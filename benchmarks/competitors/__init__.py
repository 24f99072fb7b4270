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
}
INSTALL = "pip install -c constraints.txt -e '.[bench]'"  # all of their packages
