"""Operators for which ATen has no word, in the namespace ``txgraph::``.

Each has an eager implementation (its definition), a shape function, and a lowering per backend.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "relu": torch.relu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
}

_library = torch.library.Library("txgraph", "FRAGMENT")
_library.define("linear_activation(Tensor input, Tensor weight, Tensor? bias, str activation) -> Tensor")


def linear_activation(
    input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, activation: str
) -> torch.Tensor:
    """``activation(input @ weight.T + bias)``.

    Args:
        input: ``[..., K]``. weight: ``[N, K]``. bias: ``[N]`` or ``None``.
        activation: a key of :data:`ACTIVATIONS`.

    Returns:
        ``[..., N]`` in the dtype of ``input``.
    """
    return ACTIVATIONS[activation](F.linear(input, weight, bias))


def _linear_activation_type(
    input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, activation: str
) -> torch.Tensor:
    return input.new_empty((*input.shape[:-1], weight.shape[0]))


_library.impl("linear_activation", linear_activation, "CompositeExplicitAutograd")
torch.library.register_fake("txgraph::linear_activation", _linear_activation_type, lib=_library)
