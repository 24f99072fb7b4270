"""How far a competitor's outputs are from eager's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch


def compare_outputs(result: Sequence[torch.Tensor], eager: Sequence[torch.Tensor], tolerance: float) -> dict[str, Any]:
    """The worst over all outputs.

    Returns:
        ``max_abs``: largest difference; ``relative``: the same in units of eager's largest value of that output;
        ``wrong``: why the outputs are not eager's, empty when they are within ``tolerance`` (relative).
        Both errors are ``None`` where the outputs cannot be compared.
    """
    wrong = _difference_in_kind(result, eager)
    if wrong:
        return {"max_abs": None, "relative": None, "wrong": wrong}
    max_abs, relative = 0.0, 0.0
    for ours, theirs in zip(result, eager, strict=True):
        if theirs.numel():
            error = float((ours.double() - theirs.double()).abs().max())
            scale = float(theirs.double().abs().max())
            max_abs = max(max_abs, error)
            relative = max(relative, error / scale if scale else error)
    if relative > tolerance:
        wrong = f"relative error {relative:.1e} is over {tolerance:.0e}"
    return {"max_abs": max_abs, "relative": relative, "wrong": wrong}


def _difference_in_kind(result: Sequence[torch.Tensor], eager: Sequence[torch.Tensor]) -> str:
    if len(result) != len(eager):
        return f"{len(result)} outputs, eager has {len(eager)}"
    for at, (ours, theirs) in enumerate(zip(result, eager, strict=True)):
        if ours.shape != theirs.shape:
            return f"output {at} has shape {list(ours.shape)}, eager's has {list(theirs.shape)}"
        if not torch.equal(ours.isfinite(), theirs.isfinite()):
            return f"output {at} has NaN or infinities where eager has not"
    return ""
