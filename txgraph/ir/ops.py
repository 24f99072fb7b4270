"""Operators for which ATen has no word, in the namespace ``txgraph::``.

Each has an eager implementation (its definition), a shape function, and a lowering per backend.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F

_library = torch.library.Library("txgraph", "FRAGMENT")
DEFINITIONS: dict[str, Callable[..., Any]] = {}  # of the operators that are defined for all devices, by qualified name


def define(
    schema: str,
    definition: Callable[..., Any],
    result: Callable[..., Any],
    key: str = "",
    tags: Sequence[torch.Tag] = (),
) -> None:
    """Add an operator ``txgraph::name``.

    Args:
        schema: as in ``"name(Tensor x, int n) -> Tensor"``.
        definition: computes it in eager. result: makes a tensor of the result's type, of the same arguments.
        key: the dispatch key that the definition is for; by default it is for all devices.
        tags: what torch should know of it.
    """
    name = schema.partition("(")[0]
    _library.define(schema, tags=tuple(tags))
    _library.impl(name, definition, key or "CompositeExplicitAutograd")
    torch.library.register_fake(f"txgraph::{name}", result, lib=_library)
    if not key:
        DEFINITIONS[f"txgraph::{name}"] = definition


def differentiate(name: str, backward: Callable[..., Any], setup: Callable[..., None]) -> None:
    """Give ``txgraph::name`` a gradient, as :func:`torch.library.register_autograd` takes it."""
    torch.library.register_autograd(f"txgraph::{name}", backward, setup_context=setup, lib=_library)


def quick_gelu(input: torch.Tensor) -> torch.Tensor:
    """``x * sigmoid(1.702 * x)``: the approximation of GELU that CLIP has.

    Source: Hendrycks & Gimpel 2016, section 2.
    """
    return input * torch.sigmoid(1.702 * input)


define("quick_gelu(Tensor input) -> Tensor", quick_gelu, torch.empty_like, tags=[torch.Tag.pointwise])


ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "relu": torch.relu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "quick_gelu": quick_gelu,
    "silu": F.silu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
}


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


define(
    "linear_activation(Tensor input, Tensor weight, Tensor? bias, str activation) -> Tensor",
    linear_activation,
    lambda input, weight, *_: input.new_empty((*input.shape[:-1], weight.shape[0])),
)


def linears(
    input: torch.Tensor, weights: Sequence[torch.Tensor], biases: Sequence[torch.Tensor | None]
) -> list[torch.Tensor]:
    """``input @ weight.T + bias`` for each weight: linears that read the same input.

    Args:
        input: ``[..., K]``. weights: each ``[Ni, K]``. biases: for each weight ``[Ni]`` or ``None``.

    Returns:
        for each weight ``[..., Ni]`` in the dtype of ``input``.
    """
    return [F.linear(input, weight, bias) for weight, bias in zip(weights, biases, strict=True)]


define(
    "linears(Tensor input, Tensor[] weights, Tensor?[] biases) -> Tensor[]",
    linears,
    lambda input, weights, _: [input.new_empty((*input.shape[:-1], weight.shape[0])) for weight in weights],
)


def softcap_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None,
    scale: float,
    cap: float,
) -> torch.Tensor:
    """``softmax(cap * tanh(query @ key.T * scale / cap) + attn_mask) @ value``: attention with softly capped scores.

    A query that sees no key gives 0, as in torch's ``scaled_dot_product_attention``.

    Args:
        query: ``[..., S, D]``. key: ``[..., T, D]``. value: ``[..., T, Dv]``. All with the same axes before these.
        attn_mask: broadcasts to ``[..., S, T]``: added to the scores, or boolean (true: visible).
        scale: of the scores. cap: their magnitude stays below it; not 0.

    Returns:
        ``[..., S, Dv]`` in the dtype of ``query``.

    Source: Gemma Team 2024 (Gemma 2), section 2.
    """
    scores = torch.tanh(query @ key.transpose(-2, -1) * (scale / cap)) * cap
    if attn_mask is not None and attn_mask.dtype is torch.bool:
        scores = scores.masked_fill(attn_mask.logical_not(), -math.inf)
    elif attn_mask is not None:
        scores = scores + attn_mask
    weights: torch.Tensor = torch.ops.aten._safe_softmax(scores, -1)
    return weights @ value


define(
    "softcap_attention(Tensor query, Tensor key, Tensor value, Tensor? attn_mask, float scale, float cap) -> Tensor",
    softcap_attention,
    lambda query, key, value, *_: query.new_empty((*query.shape[:-1], value.shape[-1])),
)


def window_mask(first: torch.Tensor, end: torch.Tensor, sinks: int, keys: int) -> torch.Tensor:
    """Boolean ``[S, keys]``: which keys :func:`window_attention` lets each of ``S`` queries see."""
    places = torch.arange(keys, device=first.device)
    return ((places >= first[:, None]) | (places < sinks)) & (places < end[:, None])


def window_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    first: torch.Tensor,
    end: torch.Tensor,
    sinks: int,
    scale: float | None,
    enable_gqa: bool,
) -> torch.Tensor:
    """Attention in which query ``i`` sees the keys before ``end[i]`` from ``first[i]`` on, and the first of all.

    A query that sees no key gives 0. See :func:`torch.nn.functional.scaled_dot_product_attention`.

    Args:
        query: ``[B, H, S, D]``. key: ``[B, G, T, D]``. value: ``[B, G, T, Dv]``; ``G`` is ``H``, or with ``enable_gqa``
            divides it.
        first, end: int64 ``[S]``; any numbers, also beyond 0 and ``T``.
        sinks: so many keys at the start are seen before their windows begin, too.

    Returns:
        ``[B, H, S, Dv]`` in the dtype of ``query``.

    Source: Beltagy et al. 2020 (Longformer), section 3.1; sinks: Xiao et al. 2024 (StreamingLLM), section 3.2.
    """
    mask = window_mask(first, end, sinks, key.shape[-2])
    return F.scaled_dot_product_attention(query, key, value, mask, scale=scale, enable_gqa=enable_gqa).contiguous()


define(
    "window_attention(Tensor query, Tensor key, Tensor value, Tensor first, Tensor end, int sinks, float? scale, "
    "bool enable_gqa) -> Tensor",
    window_attention,
    lambda query, key, value, *_: query.new_empty((*query.shape[:-1], value.shape[-1])),
)


def threshold_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None,
    is_causal: bool,
    scale: float | None,
    enable_gqa: bool,
    threshold: float,
) -> torch.Tensor:
    """Attention that leaves out small weights; the others are scaled up, so that their sum is 1.

    Of a weight ``e`` times the largest one of its query, ``max(0, min(e, 2 (e - threshold)))`` counts: nothing below
    the threshold, all above twice of it, and in between a ramp, so that rounding of scores stays rounding.
    A query that sees no key gives 0.

    Args:
        query: ``[B, H, S, D]``. key: ``[B, G, T, D]``. value: ``[B, G, T, Dv]``; ``G`` is ``H``, or with ``enable_gqa``
            divides it.
        attn_mask: broadcasts to ``[B, H, S, T]``: added to the scores, or boolean (true: visible).
        scale: of the scores, by default ``D ** -0.5``.
        threshold: from 0, which leaves out nothing, to 0.5.

    Returns:
        ``[B, H, S, Dv]`` in the dtype of ``query``.

    Source: Li et al. 2022 (LeOPArd), for thresholds on scores, which are learned there; BLASST (arXiv 2512.12087), for
        one relative to the largest score.
    """
    if enable_gqa:
        key, value = (t.repeat_interleave(query.shape[1] // t.shape[1], 1) for t in (key, value))
    scores = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        seen = scores.new_ones(scores.shape[-2:], dtype=torch.bool).tril()
        scores = scores.masked_fill(seen.logical_not(), -math.inf)
    if attn_mask is not None and attn_mask.dtype is torch.bool:
        scores = scores.masked_fill(attn_mask.logical_not(), -math.inf)
    elif attn_mask is not None:
        scores = scores + attn_mask
    weights: torch.Tensor = torch.ops.aten._safe_softmax(scores, -1)
    if not weights.numel():
        return query.new_zeros((*query.shape[:-1], value.shape[-1]))
    least = threshold * weights.amax(-1, keepdim=True)
    weights = torch.minimum(weights, 2 * (weights - least)).clamp_min(0)
    total = weights.sum(-1, keepdim=True)
    return weights / total.where(total != 0, 1) @ value


define(
    "threshold_attention(Tensor query, Tensor key, Tensor value, Tensor? attn_mask, bool is_causal, float? scale, "
    "bool enable_gqa, float threshold) -> Tensor",
    threshold_attention,
    lambda query, key, value, *_: query.new_empty((*query.shape[:-1], value.shape[-1])),
)


def expert_linear(input: torch.Tensor, weight: torch.Tensor, expert: torch.Tensor) -> torch.Tensor:
    """``weight[expert[n]] @ input[n]`` for each row ``n``: one product for each expert that has rows.

    Args:
        input: ``[N, K]``. weight: ``[X, M, K]``.
        expert: ``[N]`` integers; negative ones count from the end, as in indexing.

    Returns:
        ``[N, M]`` in the dtype of ``input``.

    Raises:
        IndexError: there is no such expert.
    """
    experts = weight.shape[0]
    if expert.numel() and not -experts <= int(expert.min()) <= int(expert.max()) < experts:
        raise IndexError(f"expert_linear: an expert is not among the {experts} of the weight")
    expert = expert % max(experts, 1)
    result = input.new_empty((input.shape[0], weight.shape[1]))
    rows_of_each = expert.argsort().split(torch.bincount(expert, minlength=experts).tolist())
    for each, rows in enumerate(rows_of_each):
        if rows.numel():
            result[rows] = F.linear(input[rows], weight[each])
    return result


define(
    "expert_linear(Tensor input, Tensor weight, Tensor expert) -> Tensor",
    expert_linear,
    lambda input, weight, expert: input.new_empty((input.shape[0], weight.shape[1])),
)
