"""How far a competitor's outputs are from eager's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch


def compare_outputs(
    result: Sequence[torch.Tensor],
    eager: Sequence[torch.Tensor],
    tolerance: float,
    valid: torch.Tensor | None = None,
) -> dict[str, Any]:
    """The worst over all outputs; those that begin with the axes of ``valid`` [B, S] count only where it is true.

    Returns:
        ``max_abs``: largest difference; ``relative``: the same in units of eager's largest value of that output;
        ``norm``: ``||y - y'|| / ||y||``, what budgets bound;
        ``wrong``: why the outputs are not eager's, empty when they are within ``tolerance`` (relative).
        Both errors are ``None`` where the outputs cannot be compared.
    """
    if valid is not None:
        result, eager = select_valid(result, valid), select_valid(eager, valid)
    wrong = _difference_in_kind(result, eager)
    if wrong:
        return {"max_abs": None, "relative": None, "norm": None, "wrong": wrong}
    max_abs, relative, norm = 0.0, 0.0, 0.0
    for ours, theirs in zip(result, eager, strict=True):
        if theirs.numel():
            error = float((ours.double() - theirs.double()).abs().max())
            scale = float(theirs.double().abs().max())
            max_abs = max(max_abs, error)
            relative = max(relative, error / scale if scale else error)
            size, distance = float(theirs.double().norm()), float((ours.double() - theirs.double()).norm())
            norm = max(norm, distance / size if size else distance)
    if relative > tolerance:
        wrong = f"relative error {relative:.1e} is over {tolerance:.0e}"
    return {"max_abs": max_abs, "relative": relative, "norm": norm, "wrong": wrong}


def select_valid(outputs: Sequence[torch.Tensor], valid: torch.Tensor) -> list[torch.Tensor]:
    """Outputs [B, S, ...] at the valid positions, as [V, ...]; others, such as pooled ones [B, E], as they are."""
    return [output[valid] if output.shape[:2] == valid.shape else output for output in outputs]


def not_zero_at_padding(outputs: Sequence[torch.Tensor], valid: torch.Tensor) -> str:
    """Why outputs [B, S, ...] break a promise of zeros at the padding; empty where they keep it."""
    for at, output in enumerate(outputs):
        if output.shape[:2] == valid.shape and bool(output[~valid].count_nonzero()):
            return f"output {at} is not zero at all masked positions"
    return ""


def _difference_in_kind(result: Sequence[torch.Tensor], eager: Sequence[torch.Tensor]) -> str:
    if len(result) != len(eager):
        return f"{len(result)} outputs, eager has {len(eager)}"
    for at, (ours, theirs) in enumerate(zip(result, eager, strict=True)):
        if ours.shape != theirs.shape:
            return f"output {at} has shape {list(ours.shape)}, eager's has {list(theirs.shape)}"
        if not torch.equal(ours.isfinite(), theirs.isfinite()):
            return f"output {at} has NaN or infinities where eager has not"
        if not theirs.is_floating_point() and not torch.equal(ours.long(), theirs.long()):
            return f"output {at}: {int((ours != theirs).sum())} of {theirs.numel()} integers differ from eager's"
    return ""
