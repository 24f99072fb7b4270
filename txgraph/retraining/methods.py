"""What each method makes of a linear that is to be trained further."""

from __future__ import annotations

import torch
from torch import nn

from txgraph.passes.low_rank.low_rank import LowRank
from txgraph.passes.precision.int8 import Int8
from txgraph.passes.precision.weight_only import WeightOnly
from txgraph.retraining.layers import CompressedLinear, LowRankLinear
from txgraph.retraining.linears import is_transposed, weight_of
from txgraph.retraining.prune import Prune, kept_elements
from txgraph.rewrite import LinearPass, Observed

TRAINED = (Int8, WeightOnly, LowRank)


class Unfit(ValueError):
    """A method is nothing for a linear of that size."""


def changed(method: LinearPass | Prune, name: str, linear: nn.Module, observed: Observed | None) -> nn.Module:
    """The module that trains in the place of a linear.

    Raises:
        Unfit: its size is not for the method. ValueError: what was done to it before does not go together with it.
    """
    if isinstance(method, Prune):
        return masked(linear, name, kept_elements(weight_of(linear), method.fraction, observed))
    if isinstance(method, LowRank):
        return _low_rank(method, name, linear, observed)
    assert isinstance(method, Int8 | WeightOnly), "there is no other"
    return _quantized(method, name, linear, observed)


def masked(linear: nn.Module, name: str, mask: torch.Tensor) -> CompressedLinear:
    """A linear with a mask, bool ``[N, K]``."""
    done = _done(linear)
    if done:
        hint = "give Prune before" if done == "quantized" else "give one Prune, with the fraction wanted in the end"
        raise ValueError(f"{name} is {done} already: {hint}")
    new = _taken_over(linear)
    new.mask = (mask.t() if new.transposed else mask).to(new.weight.device).contiguous()
    return new


def silence(linear: nn.Module, channels: torch.Tensor) -> None:
    """Set the bias of some outputs, bool ``[N]``, to zero. Where nothing reads these, no gradient changes it again."""
    bias = linear._parameters.get("bias")
    if bias is not None:
        with torch.no_grad():
            bias[channels.to(bias.device)] = 0


def _taken_over(linear: nn.Module) -> CompressedLinear:
    """A compressed linear with the very parameters of a plain one."""
    weight, bias = linear._parameters["weight"], linear._parameters.get("bias")
    assert weight is not None, "a linear"
    return CompressedLinear(weight, bias, is_transposed(linear))


def _quantized(method: Int8 | WeightOnly, name: str, linear: nn.Module, observed: Observed | None) -> nn.Module:
    weight = weight_of(linear)
    _check(name, weight)
    if isinstance(linear, CompressedLinear) and linear.bits:
        raise ValueError(f"{name} is quantized already: give one method that quantizes for each module, by modules=")
    new = linear if isinstance(linear, CompressedLinear) else _taken_over(linear)
    if isinstance(method, Int8):
        new.bits, new.group, new.quantizes_rows = 8, 0, True
        new.divisor = method.divisor([weight], observed)
    else:
        if method.bits == 4 and weight.shape[1] % method.group:
            raise Unfit(
                f"{name} has {weight.shape[1]} columns, no multiple of group={method.group}: use another group, "
                f"bits=8, or leave it out by modules="
            )
        new.bits, new.group = method.bits, method.group if method.bits == 4 else 0
    return new


def _low_rank(method: LowRank, name: str, linear: nn.Module, observed: Observed | None) -> nn.Module:
    done = _done(linear)
    if done:
        raise ValueError(f"{name} is {done} already, which a product of two factors would lose: give LowRank first")
    weight = weight_of(linear)
    _check(name, weight)
    prepared = method.prepare([weight], observed)
    if isinstance(prepared, str):
        raise Unfit(f"{name}: {prepared}: use a smaller rank, or leave it out by modules=")
    old, bias = linear._parameters["weight"], linear._parameters.get("bias")
    assert old is not None, "a linear"
    (rank, columns), rows = prepared["V"].shape, len(weight)
    first, second = nn.Linear(columns, rank, bias=False), nn.Linear(rank, rows, bias=False)
    first.weight = nn.Parameter(prepared["V"].to(weight), old.requires_grad)
    second.weight = nn.Parameter(prepared["U0"].to(weight), old.requires_grad)
    second.register_parameter("bias", bias)
    return LowRankLinear(first, second)


def _done(linear: nn.Module) -> str:
    """What was made of a linear before; empty for a plain one."""
    return ("quantized" if linear.bits else "pruned") if isinstance(linear, CompressedLinear) else ""


def _check(name: str, weight: torch.Tensor) -> None:
    if weight.dtype is not torch.float32:
        raise ValueError(f"{name} has weights in {weight.dtype}: train in float32, model.float(), and under autocast")
    if not weight.numel() or not bool(weight.isfinite().all()):
        raise ValueError(f"{name} has a weight that is empty, or not finite")
