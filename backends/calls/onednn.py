"""A private operator of torch, in this file alone: oneDNN's linear."""

from __future__ import annotations

from collections.abc import Callable

import torch


def onednn_linear() -> Callable[..., torch.Tensor] | None:
    """OneDNN's linear with a fused activation, ``None`` where this torch is built without oneDNN.

    Called as ``f(input, weight, bias, attr, scalars, algorithm)``.
    """
    if not torch.backends.mkldnn.is_available():
        return None
    operator: Callable[..., torch.Tensor] = torch.ops.mkldnn._linear_pointwise.default
    return operator
