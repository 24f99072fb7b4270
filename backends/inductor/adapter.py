"""Every private torch name that the Inductor backend uses, in one place.

``tests/backends/test_inductor_adapter.py`` tells when one of them moves.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from unittest import mock

import torch
from torch._inductor import config, standalone_compile
from torch._inductor.graph import GraphLowering

_CompiledFunction = Callable[..., Sequence[Any]]


def compile_graph(
    module: torch.fx.GraphModule, examples: Sequence[Any], settings: Mapping[str, Any]
) -> tuple[_CompiledFunction, str]:
    """Compile a functional ATen graph for inference.

    Args:
        module: placeholders only, no attributes.
        examples: the fake tensors of its placeholders; symbolic sizes stay symbolic.
        settings: for ``torch._inductor.config``.

    Returns:
        The compiled function (tensors in, tuple of outputs out), and the generated Python source.
    """
    # Passing the graph's own fakes keeps static sizes static: "from_graph" would make them symbolic.
    with torch.no_grad(), config.patch(dict(settings)), _generated_code() as sources:
        artifact = standalone_compile(module, list(examples), dynamic_shapes="from_example_inputs")
    return artifact, "\n".join(sources)


@contextlib.contextmanager
def _generated_code() -> Iterator[list[str]]:
    """Collect the source of everything that Inductor compiles, or takes from its cache, meanwhile."""
    sources: list[str] = []
    with mock.patch.object(GraphLowering, "save_output_code", sources.append):
        yield sources


def onednn_linear() -> Callable[..., torch.Tensor] | None:
    """OneDNN's linear with a fused activation, ``None`` where this torch is built without oneDNN.

    Called as ``f(input, weight, bias, attr, scalars, algorithm)``.
    """
    if not torch.backends.mkldnn.is_available():
        return None
    operator: Callable[..., torch.Tensor] = torch.ops.mkldnn._linear_pointwise.default
    return operator
