"""Which competitors run on which rows: ``python -m benchmarks.compare --suite cpu``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Suite:
    """Rows, each with its competitors, all of them by name; ``device`` is what they need."""

    name: str
    device: str
    title: str
    rows: Mapping[str, tuple[str, ...]]

    def select(self, rows: Sequence[str], competitors: Sequence[str]) -> dict[str, tuple[str, ...]]:
        """The part of the suite with these names; no names are all.

        Raises:
            ValueError: a name is not in the suite.
        """
        known = {name for names in self.rows.values() for name in names}
        strange = [name for name in rows if name not in self.rows] + [c for c in competitors if c not in known]
        if strange:
            raise ValueError(f"not in suite {self.name}: {', '.join(strange)}")
        wanted = {row: self.rows[row] for row in rows or self.rows}
        return {row: tuple(c for c in names if not competitors or c in competitors) for row, names in wanted.items()}


_DENSE = (
    "eager",
    "torch.compile",
    "torch.compile-max-autotune",
    "onnxruntime",
    "onnxruntime-transformers",
    "openvino",
    "txgraph",
)
_PADDED = (*_DENSE, "txgraph-zeros")
_DECODING = ("eager", "eager-static-cache", "torch.compile-static-cache", "onnxruntime-decoding", "txgraph")
_ON_GPU = (
    *("eager", "torch.compile", "torch.compile-reduce-overhead", "torch.compile-max-autotune"),
    *("txgraph", "txgraph-cuda-graphs"),
)

SUITES: Mapping[str, Suite] = {
    "cpu": Suite(
        "cpu",
        "cpu",
        "CPU, float32",
        {
            "bert-base-1x128": _DENSE,
            "bert-base-8x128-padded": _PADDED,
            "minilm-real-32": _PADDED,
            "bert-classifier-8x128-padded": _PADDED,
            "gpt2-1x128": _DENSE,
            "gpt2-decode-64": _DECODING,
            "vit-base-1x224": _DENSE,
            "llama-135m-1x128": _DENSE,
            "t5-small-1x64-1x32": _DENSE,
            "torch-encoder-16x64-padded": _PADDED,
        },
    ),
    "lossy": Suite(
        "lossy",
        "cpu",
        "CPU, lossy: int8 by others, txgraph under budgets of 0.02, 0.05 and 0.14",
        {
            "minilm-embeddings-32": (
                "eager",
                "torch-int8",
                "onnxruntime",
                "onnxruntime-int8",
                "openvino",
                "txgraph-dense",
                "txgraph-dense-0.02",
                "txgraph-dense-0.05",
                "txgraph-dense-0.14",
                "txgraph-packed-0.05",
            ),
            "bert-base-8x128-padded-lossy": (
                "eager",
                "torch-int8",
                "onnxruntime",
                "onnxruntime-int8",
                "openvino",
                "txgraph-zeros",
                "txgraph-zeros-0.05",
            ),
            "bert-base-rank-64-8x128": (
                "eager",
                "torch-int8",
                "onnxruntime",
                "openvino",
                "txgraph",
                "txgraph-dense-0.05",
            ),
            "gpt2-decode-64-lossy": (
                *("eager", "onnxruntime-decoding", "txgraph"),
                *("txgraph-decoding-int8-weights", "txgraph-decoding-0.05"),
            ),
        },
    ),
    "cuda": Suite(
        "cuda",
        "cuda",
        "NVIDIA GPU, bfloat16; decoding in float32",
        {
            "cuda-bert-large-32x512": _ON_GPU,
            "cuda-bert-large-32x512-padded": (*_ON_GPU, "txgraph-zeros"),
            "cuda-gpt2-xl-8x512": _ON_GPU,
            "cuda-bert-base-1x128": _ON_GPU,
            "cuda-gpt2-decode-64": (
                *("eager", "eager-static-cache", "torch.compile-static-cache"),
                *("txgraph", "txgraph-cuda-graphs"),
            ),
        },
    ),
}
