"""Faults in norms and activations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.fx import Node

from tests.mutants.edits import after, always, given, numbers, parameters, with_arguments
from tests.mutants.mutant import Fault, Inputs, Mutant, Probe
from tests.small import module
from txgraph.ir import GraphBuilder
from txgraph.passes.fuse import fuse_gelu
from txgraph.passes.fuse.fuse_gelu import FuseGelu
from txgraph.passes.fuse.fuse_layer_norm import FuseLayerNorm
from txgraph.passes.fuse.fuse_rms_norm import FuseRmsNorm
from txgraph.passes.fuse.fuse_silu import FuseSilu
from txgraph.rewrite import Accept, Match

Tensor = torch.Tensor
Function = Callable[..., Tensor]


def model_probe(name: str, make: Callable[[], nn.Module], *shape: int) -> Probe:
    """A model of one input x."""

    def inputs() -> Inputs:
        return dict(zip("x", numbers(shape), strict=True))

    return Probe(name, make, inputs)


def function_probe(name: str, function: Function, *shapes: tuple[int, ...]) -> Probe:
    """A function of x, and of a and b, where there are shapes of them."""

    def inputs() -> Inputs:
        return dict(zip("xab", numbers(*shapes), strict=False))

    return Probe(name, lambda: module(function), inputs)


# -- norms ---------------------------------------------------------------------------------------------------------


def _layer_norm(x: Tensor) -> Tensor:
    d = x - x.mean(-1, keepdim=True)
    return d / torch.sqrt((d * d).mean(-1, keepdim=True) + 1e-3)


def _affine_norm() -> nn.Module:
    w, b = parameters((16,), (16,))
    return module(lambda x: _layer_norm(x) * w + b, w=w, b=b)


def _norm_after_residual(x: Tensor, a: Tensor) -> Tensor:
    return _layer_norm(x + a)


def _norm_over_rows(x: Tensor) -> Tensor:
    d = x - x.mean(1, keepdim=True)
    return d / torch.sqrt((d * d).mean(1, keepdim=True) + 1e-3)


def _rms_norm() -> nn.Module:
    (w,) = parameters((16,))
    return module(lambda x: x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-3) * w, w=w)


AFFINE_NORM = model_probe("layer norm by its formula", _affine_norm, 4, 16)
RESIDUAL_NORM = function_probe("layer norm of a sum", _norm_after_residual, (4, 16), (4, 16))
NORM_OVER_ROWS = function_probe("norm over another axis", _norm_over_rows, (4, 16, 16))
RMS_NORM = model_probe("RMS norm by its formula", _rms_norm, 4, 16)

NORMS = (
    Mutant(
        "layer norm with the default eps",
        "eps is 1e-5 whatever the model adds",
        Fault(FuseLayerNorm, "rewrite", with_arguments(eps=1e-5)),
        AFFINE_NORM,
    ),
    Mutant(
        "layer norm loses its bias",
        "the affine part has no bias",
        Fault(FuseLayerNorm, "rewrite", with_arguments(bias=None)),
        AFFINE_NORM,
    ),
    Mutant(
        "layer norm loses its affine part",
        "neither weight nor bias reach the operator",
        Fault(FuseLayerNorm, "rewrite", with_arguments(weight=None, bias=None)),
        AFFINE_NORM,
    ),
    Mutant(
        "residual lost",
        "the norm reads the first term of the sum before it",
        Fault(FuseLayerNorm, "rewrite", after(lambda norm: given(norm, input=norm.args[0].args[0]))),
        RESIDUAL_NORM,
    ),
    Mutant(
        "layer norm accepts any axis",
        "means over other axes are taken for means over the last",
        Fault(FuseLayerNorm, "check", always(Accept())),
        NORM_OVER_ROWS,
    ),
    Mutant(
        "RMS norm with another eps",
        "eps is 1e-6 whatever the model adds",
        Fault(FuseRmsNorm, "rewrite", with_arguments(eps=1e-6)),
        RMS_NORM,
    ),
    Mutant(
        "RMS norm loses its weight",
        "the normalised values are not scaled",
        Fault(FuseRmsNorm, "rewrite", with_arguments(weight=None)),
        RMS_NORM,
    ),
)

# -- activations ---------------------------------------------------------------------------------------------------


def _gelu(x: Tensor) -> Tensor:
    return x * 0.5 * (1.0 + torch.erf(x / 2.0**0.5))


def _gelu_by_tanh(x: Tensor) -> Tensor:
    return x * 0.5 * (1.0 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)))


def _almost_gelu(x: Tensor) -> Tensor:
    return x * 0.5 * (1.0 + torch.erf(x / 1.41))


def _silu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)


def _narrow_gelu(original: Any, self: FuseGelu, match: Match, g: GraphBuilder) -> Node:
    narrow = g.aten._to_copy.default(match["x"], dtype=torch.bfloat16)
    return g.aten._to_copy.default(g.aten.gelu(narrow), dtype=torch.float32)


def _wide_gelu(original: Any, self: FuseGelu, match: Match, g: GraphBuilder) -> Node:
    return g.aten._to_copy.default(original(self, match, g), dtype=torch.float64)


def _gate_alone(original: Any, self: FuseSilu, match: Match, g: GraphBuilder) -> Node:
    return g.aten.sigmoid(match["x"])


GELU = function_probe("GELU by its formula", _gelu, (4, 16))
GELU_BY_TANH = function_probe("GELU's approximation by its formula", _gelu_by_tanh, (4, 16))
ALMOST_GELU = function_probe("GELU with a rough constant", _almost_gelu, (4, 16))
SILU = function_probe("SiLU by its formula", _silu, (4, 16))

ACTIVATIONS = (
    Mutant(
        "approximate GELU",
        "the erf form becomes the tanh approximation",
        Fault(FuseGelu, "rewrite", with_arguments(approximate="tanh")),
        GELU,
    ),
    Mutant(
        "exact GELU for the approximation",
        "the tanh approximation becomes the erf form",
        Fault(FuseGelu, "rewrite", with_arguments(approximate="none")),
        GELU_BY_TANH,
    ),
    Mutant(
        "GELU accepts rough constants",
        "constants may be 1 % away from GELU's",
        Fault(fuse_gelu, "_tolerance", always(1e-2)),
        ALMOST_GELU,
    ),
    Mutant(
        "GELU in bfloat16",
        "the dtype is narrowed for the activation and widened again",
        Fault(FuseGelu, "rewrite", _narrow_gelu),
        GELU,
    ),
    Mutant(
        "GELU in another dtype",
        "the result is float64 where it was float32",
        Fault(FuseGelu, "rewrite", _wide_gelu),
        GELU,
    ),
    Mutant(
        "SiLU without its factor",
        "the fused operator is the sigmoid alone",
        Fault(FuseSilu, "rewrite", _gate_alone),
        SILU,
    ),
)
