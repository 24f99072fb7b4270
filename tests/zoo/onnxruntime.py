"""What ONNX Runtime's transformers optimizer finds in the same models, by its own statistics."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from torch import nn

from tests.zoo.architecture import Architecture
from tests.zoo.counts import Counts

ATTENTIONS = ("Attention", "MultiHeadAttention", "GroupQueryAttention", "DecoderMaskedMultiHeadAttention")
NORMS = (
    *("LayerNormalization", "SkipLayerNormalization", "EmbedLayerNormalization"),
    *("SimplifiedLayerNormalization", "SkipSimplifiedLayerNormalization"),
)
ACTIVATIONS = ("Gelu", "FastGelu", "BiasGelu", "GemmFastGelu", "QuickGelu")
MODEL_TYPES = ("bert", "gpt2", "bart", "t5", "vit", "clip", "phi")


class _Positional(nn.Module):
    """The first output of a model, as a function of positional inputs."""

    def __init__(self, model: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
        output = self.model(**dict(zip(self.names, tensors, strict=True)))
        first = output if isinstance(output, torch.Tensor) else output[0]
        assert isinstance(first, torch.Tensor)
        return first


def found_by_onnxruntime(architecture: Architecture) -> Counts | str:
    """The counts under the model type that finds the most attentions, or why the model cannot be exported."""
    from onnxruntime.transformers.optimizer import optimize_model

    inputs = architecture.inputs(2, 12)
    model = _Positional(architecture.model(), tuple(inputs)).eval()
    try:
        program = torch.onnx.export(model, tuple(inputs.values()), dynamo=True, verbose=False)
    except Exception as error:  # the exporter raises whatever its parts raise
        return f"{type(error).__name__} in torch.onnx.export"
    assert program is not None
    found = []
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "model.onnx")
        program.save(path)
        for kind in MODEL_TYPES:
            try:
                # Heads and hidden size 0: taken from the graph. Level 0: only the transformers optimizer itself.
                optimized = optimize_model(path, model_type=kind, num_heads=0, hidden_size=0, opt_level=0)
            except Exception:  # a model type that does not fit may fail in any way
                continue
            numbers = optimized.get_fused_operator_statistics()
            each = [sum(numbers.get(op, 0) for op in ops) for ops in (ATTENTIONS, NORMS, ACTIVATIONS)]
            found.append(Counts(each[0], 0, *each[1:]))  # its attention joins the projections: it has no count of them
    return max(found, key=lambda counts: (counts.attentions, counts.norms)) if found else "no model type fits"
