"""One function of all operators that TVM generates code for, with inputs of sizes that vary."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch.export import Dim

_VARY = {0: Dim("batch", min=2, max=8), 1: Dim("length", min=2, max=64)}
SIZES = {"x": _VARY, "y": _VARY, "n": _VARY, "wide": _VARY}


def everything(x: torch.Tensor, y: torch.Tensor, n: torch.Tensor, wide: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Each result is one operator's, or a chain's."""
    return *_activations(x), *_arithmetic(x, y, n), *_moves(x, y), *_reductions(x, wide)


def inputs(batch: int, length: int) -> tuple[torch.Tensor, ...]:
    """For it: two with few columns, integers, and one with many."""
    torch.manual_seed(batch)
    x, y = torch.randn(2, batch, length, 10)
    return _special(x), y, torch.randint(0, 9, (batch, length, 10)), torch.randn(batch, length, 100)


def _activations(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    finite = x.clamp(min=-9, max=9)  # of infinity, eager's gelu is NaN
    named = (F.silu, F.relu, torch.tanh, torch.sigmoid, torch.erf, torch.exp, torch.cos, torch.neg, torch.abs)
    gelus = (F.gelu(finite), F.gelu(finite, approximate="tanh"))
    return *(function(x) for function in named), *gelus, torch.rsqrt(x.abs() + 1e-3), finite.ceil(), finite.floor()


def _arithmetic(x: torch.Tensor, y: torch.Tensor, n: torch.Tensor) -> tuple[torch.Tensor, ...]:
    a, b = x + 0.5, y * 2
    return (
        *(torch.add(a, b, alpha=3), 1 - a, a / (b.abs() + 1), n / 3, n * 2 - 1, n * 0.5, a**2, a.abs() ** 0.5),
        *(a > b, n == 3, n != n.clone() + 1, (n > 3) & (n < 7), (n > 3) | ~(n < 7), n & 6, n | 1),
        *(torch.where(a > 0, b, 1.0), b.masked_fill(a < 0, float("-inf")), a.clamp(min=-0.5, max=0.5)),
        *(torch.maximum(a, b), torch.minimum(a, b), n.to(torch.float32) + 1, (a > 0).to(torch.int64) + n),
    )


def _moves(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, ...]:
    a = x + 1
    left, right = a[..., :5], a[..., 5:]
    turned = torch.cat([-right, left], -1) * y
    places = torch.arange(x.shape[1])
    mask = (places[None, :] <= places[:, None]) & (places[:, None] > 1)
    return turned, a.transpose(1, 2) * 2, (a.unsqueeze(1) - a.unsqueeze(2)).abs(), mask, x.permute(2, 0, 1) + 1


def _reductions(x: torch.Tensor, wide: torch.Tensor) -> tuple[torch.Tensor, ...]:
    narrow, broad = (x.shape[-1],), (wide.shape[-1],)
    weight, places = wide[0, 0], torch.arange(x.shape[1])
    return (
        *(
            F.softmax(x, -1),
            F.softmax(wide, -1),
            F.softmax(x, 1),
            x.mean(-1),
            wide.mean((0, 1)),
            wide.sum(1, keepdim=True),
        ),
        *(F.layer_norm(x, narrow), F.layer_norm(wide + 1, broad, weight, weight), F.rms_norm(wide, broad, weight)),
        F.softmax((x @ x.transpose(1, 2)).masked_fill(places[:, None] > places, float("-inf")), -1),
    )


def _special(x: torch.Tensor) -> torch.Tensor:
    """With what floating-point numbers there are beside the usual ones."""
    x = x.clone()
    x.view(-1)[:7] = torch.tensor([0.0, -0.0, float("inf"), float("-inf"), float("nan"), 1e-40, 100.0])
    return x
