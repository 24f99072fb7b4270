"""Faults in the removal of dead channels and heads."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from tests.mutants.edits import after, parameters
from tests.mutants.mutant import Fault, Mutant
from tests.mutants.operators import model_probe
from tests.small import module
from txgraph.passes.sparsity import known_channels, remove_dead_channels, remove_dead_heads, take_out

Tensor = torch.Tensor


def _dead_channels() -> nn.Module:
    w, b, v, c = parameters((16, 8), (16,), (8, 16), (8,))
    with torch.no_grad():
        v[:, 2:5], w[8:12] = 0, 0
    return module(lambda x: F.linear(torch.sigmoid(F.linear(x, w, b)), v, c), w=w, b=b, v=v, c=c)


def _gate() -> nn.Module:
    w, b, u, v = parameters((16, 8), (16,), (16, 8), (8, 16))
    with torch.no_grad():
        w[8:12], v[:, 2] = 0, 0
    return module(lambda x: F.linear(F.linear(x, w, b).sigmoid() * F.linear(x, u), v), w=w, b=b, u=u, v=v)


def _dead_head() -> nn.Module:
    held = dict(zip("qkvo", parameters((16, 16), (16, 16), (16, 16), (16, 16)), strict=True))
    with torch.no_grad():
        held["o"][:, 4:8] = 0

    def forward(x: Tensor) -> Tensor:
        q, k, v = (F.linear(x, held[name]).reshape(2, 5, 4, 4).transpose(1, 2) for name in "qkv")
        return F.linear(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(2, 5, 16), held["o"])

    return module(forward, **held)


DEAD_CHANNELS = model_probe("a block with dead channels", _dead_channels, 4, 8)
GATE = model_probe("a gate with a bias and zero rows", _gate, 4, 8)
DEAD_HEAD = model_probe("an attention with a dead head", _dead_head, 2, 5, 16)

SPARSITY = (
    Mutant(
        "share of constant channels lost",
        "channels of zero rows go, and with them what their bias gave",
        Fault(take_out, "share_of", after(torch.zeros_like)),
        DEAD_CHANNELS,
    ),
    Mutant(
        "other channels than the dead ones",
        "the channel beside one that nobody reads is removed",
        Fault(remove_dead_channels, "_unread", after(lambda unread: unread.roll(1))),
        DEAD_CHANNELS,
    ),
    Mutant(
        "bias of zero rows forgotten",
        "a channel of zero rows is taken for zero before its activation",
        Fault(known_channels, "_made", after(lambda known: known * 0)),
        DEAD_CHANNELS,
    ),
    Mutant(
        "gate taken for zero",
        "a half of a product that is constant is taken for a zero",
        Fault(known_channels, "_pointwise", after(lambda known: known if known is None else known.nan_to_num() * 0)),
        GATE,
    ),
    Mutant(
        "other heads than the dead ones",
        "the head beside one that nobody reads is removed",
        Fault(remove_dead_heads, "_unread", after(lambda unread: unread.roll(1))),
        DEAD_HEAD,
    ),
)
