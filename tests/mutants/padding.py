"""Faults in removing padding: what is proven of masks, which values nobody sees, and which calls a graph is for."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.fx import Node

from tests.mutants.edits import always
from tests.mutants.mutant import Fault, Inputs, Mutant, Probe, Scenario, Twins
from tests.padded import RIGHT, B, E, Encoder, H, S, ids, mean
from txgraph.capture import export
from txgraph.ir import packed
from txgraph.ir.padding import PaddingAssumption, PaddingMask
from txgraph.passes.padding import attention_masks
from txgraph.passes.padding.packer import Packer
from txgraph.passes.padding.token_flow import TokenFlow

Tensor = torch.Tensor
LEFT = RIGHT.flip(1)


def _keys(mask: Tensor) -> Tensor:
    return mask[:, None, None]


def _biased(mask: Tensor) -> Tensor:
    bias = torch.linspace(-2, 2, H * S * S).reshape(1, H, S, S)
    return bias.masked_fill(~mask[:, None, None], -math.inf)


def _all_keys(mask: Tensor) -> Tensor:
    return torch.zeros(S, S) + mask[:, None, None] * 0.5


def _probe(
    name: str, mask: Callable[[Tensor], Tensor], head: Callable[..., Any], valid: Tensor = RIGHT, causal: bool = False
) -> Probe:
    def inputs() -> Inputs:
        return {"ids": ids(), "mask": valid}

    return Probe(name, lambda: Encoder(mask, head, causal), inputs)


POOLED = _probe("an encoder that pools its tokens", _keys, mean)
CAUSAL = _probe("a decoder that pools its tokens", _keys, mean, causal=True)
BIASED = _probe("an encoder with a bias for each head and place", _biased, mean)
UNHIDDEN = _probe("a mask that hides no key", _all_keys, mean)
SHOWN = _probe("an encoder that shows its hidden states", _keys, lambda x, m: x)
FIRST = _probe("a classifier of first tokens", _keys, lambda x, m: x[:, 0])
PLACES = _probe("a head that scales places", _keys, lambda x, m: mean(x * torch.arange(S).view(1, S, 1), m))


class Decoder(nn.Module):
    """Queries of another sequence over an encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = Encoder(_keys, lambda x, m: x)

    def forward(self, ids: Tensor, mask: Tensor, x: Tensor) -> Tensor:
        keys = self.encoder(ids, mask).unflatten(-1, (H, -1)).transpose(1, 2)
        bias = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)[:, None, None]
        return F.scaled_dot_product_attention(x, keys, keys, bias)


def _another_mask(mask: Tensor) -> Callable[[Twins], None]:
    def steps(twins: Twins) -> None:
        twins.call(ids=ids(), mask=RIGHT)
        twins.call(ids=ids(), mask=mask)

    return steps


def _an_empty_row(twins: Twins) -> None:
    x = torch.randn(B, H, 3, E // H, generator=torch.Generator().manual_seed(0))
    twins.call(ids=ids(), mask=RIGHT, x=x)
    twins.call(ids=ids(), mask=RIGHT.index_fill(0, torch.tensor(1), False), x=x)


LEFT_LATER = Scenario(
    "first tokens that are padding later", lambda: Encoder(_keys, lambda x, m: x[:, 0]), _another_mask(LEFT)
)
EMPTY_LATER = Scenario("a row without tokens later", Decoder, _an_empty_row)


class Stack(nn.Module):
    """Torch's encoder, which leaves padding out in eager."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stack = nn.TransformerEncoder(nn.TransformerEncoderLayer(E, H, 2 * E, batch_first=True), 2)

    def forward(self, x: Tensor, padding: Tensor) -> Tensor:
        hidden: Tensor = self.stack(x, src_key_padding_mask=padding)
        return hidden


def _stack_inputs() -> Inputs:
    return {"x": torch.randn(B, S, E, generator=torch.Generator().manual_seed(0)), "padding": ~RIGHT}


def _holes_later(twins: Twins) -> None:
    inputs = _stack_inputs()
    twins.call(**inputs)
    twins.call(**{**inputs, "padding": ~LEFT})


def _left_not_needed(original: Any, self: TokenFlow, node: Node, value: Any, valid: bool) -> Any:
    formula = original(self, node, value, valid)
    self.needs.discard("left")
    return formula


STACK = Probe("torch's encoder", lambda: Stack().eval(), _stack_inputs)
STACK_LATER = Scenario("torch's encoder, with padding before tokens later", lambda: Stack().eval(), _holes_later)


def _always_hides(original: Any, formulas: Any, mask: Any) -> bool:
    return True


def _rest(kind: str) -> Callable[..., Any]:
    return lambda original, formulas, mask: "trivial" if original(formulas, mask) == kind else original(formulas, mask)


def _other_end(original: Any, self: Packer, *rest: Any) -> None:
    self._first, self._last = self._last, self._first
    original(self, *rest)
    self._first, self._last = self._last, self._first


def _needs_forgotten(original: Any, self: PaddingAssumption, mask: Tensor) -> bool:
    if not self.holds or not self.needs:
        return bool(original(self, mask))
    return 2 <= int(self.mask.tokens(mask).sum()) <= self.density * mask.numel()


def _rows_for_places(original: Any, self: Packer, value: Node, axes: Any, rank: int) -> Node:
    self._position, held = self._row, self._position
    try:
        result: Node = original(self, value, axes, rank)
    finally:
        self._position = held
    return result


def _one_group(original: Any, lengths: Tensor) -> Any:
    yield slice(0, int(lengths.sum())), 1, int(lengths.sum())


def _mask_of_first_row(original: Any, mask: Tensor, rows: Tensor, places: Tensor) -> Tensor:
    result: Tensor = original(mask, torch.zeros_like(rows), places.flip(1))
    return result


def _negated(original: Any, self: PaddingMask, g: Any, mask: Node) -> Node:
    result: Node = g.aten.logical_not(original(self, g, mask))
    return result


PADDING = (
    Mutant(
        "keys that are seen taken for padding",
        "a mask that hides nothing counts as one that hides padding",
        Fault(attention_masks, "_hides", _always_hides),
        UNHIDDEN,
    ),
    Mutant(
        "causal mask lost with the padding",
        "packed tokens attend to later ones",
        Fault(attention_masks, "_rest", _rest("causal")),
        CAUSAL,
    ),
    Mutant(
        "bias lost with the padding",
        "what a mask does beside hiding padding is dropped",
        Fault(attention_masks, "_rest", _rest("other")),
        BIASED,
    ),
    Mutant(
        "padding that is shown",
        "values at padding that are an output count as seen by nobody",
        Fault(TokenFlow, "_exposes", always(False)),
        SHOWN,
    ),
    Mutant(
        "last token for the first",
        "a classifier of first tokens gets the last ones",
        Fault(Packer, "_hand_back", _other_end),
        FIRST,
    ),
    Mutant(
        "padding for tokens",
        "the packed positions are those that hold no token",
        Fault(PaddingMask, "build_tokens", _negated),
        POOLED,
    ),
    Mutant(
        "rows for positions",
        "a value of each position is gathered by rows",
        Fault(Packer, "_at_tokens", _rows_for_places),
        PLACES,
    ),
    Mutant(
        "rows attend to one another",
        "the packed batch is one sequence",
        Fault(packed, "_groups", _one_group),
        POOLED,
    ),
    Mutant(
        "mask of another row",
        "packed attention reads the bias of other places",
        Fault(packed, "_mask_of", _mask_of_first_row),
        BIASED,
    ),
    Mutant(
        "place of a token not guarded",
        "a graph that takes first tokens by their place answers where these are padding",
        Fault(PaddingAssumption, "accepts", _needs_forgotten),
        LEFT_LATER,
    ),
    Mutant(
        "rows without tokens not guarded",
        "queries of another sequence average zeros where eager averages what is hidden",
        Fault(PaddingAssumption, "accepts", _needs_forgotten),
        EMPTY_LATER,
    ),
    Mutant(
        "padding of torch's encoder computed",
        "an encoder that leaves padding out in eager has values there",
        Fault(export, "without_branches_on_values", lambda original, model: contextlib.nullcontext()),
        STACK,
    ),
    Mutant(
        "alignment not guarded",
        "a graph for tokens that come first answers where they do not",
        Fault(PaddingAssumption, "accepts", _needs_forgotten),
        STACK_LATER,
    ),
    Mutant(
        "alignment not needed",
        "that padding is left out only behind tokens is forgotten by the graph that relies on it",
        Fault(TokenFlow, "_at", _left_not_needed),
        STACK_LATER,
    ),
)
