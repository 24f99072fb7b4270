"""Torch's stacks of layers, whose eager code branches on the values of masks, in a form that a graph can hold.

- Without gradients ``nn.TransformerEncoder`` leaves padding out where a mask says that it follows the tokens of each
  row: its layers run on a nested tensor, which is padded by zeros for the final norm. Here they run on the padded
  tensor, and zeros are put there if the mask says so.
- It and ``nn.TransformerDecoder`` look whether a mask is the causal one, to choose a kernel. Here a mask is a mask.

Source: ``torch.nn.TransformerEncoder.forward``, ``torch.nn.TransformerDecoder.forward``.
"""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

_encode = nn.TransformerEncoder.forward
_decode = nn.TransformerDecoder.forward


@contextlib.contextmanager
def without_branches_on_values(model: nn.Module) -> Iterator[None]:
    """Within it, these stacks in ``model`` compute, without such branches, what eager gives without gradients.

    A stack with a ``forward`` of its own stays as it is. An encoder with ``mask_check=False``, by which its author says
    that tokens come first in all masks, is taken at that word: of other masks eager makes something else.
    """
    replaced = []
    for module in model.modules():
        for kind, forward in _FORWARDS.items():
            if type(module).forward is kind.forward and "forward" not in vars(module):
                module.forward = functools.partial(forward, module)
                replaced.append(module)
    try:
        yield
    finally:
        for module in replaced:
            del module.forward


def _encoder_forward(
    encoder: nn.TransformerEncoder,
    src: torch.Tensor,
    mask: torch.Tensor | None = None,
    src_key_padding_mask: torch.Tensor | None = None,
    is_causal: bool | None = None,
) -> torch.Tensor:
    if src_key_padding_mask is None or not _nests(encoder, src, mask):
        return _encode(_without_nested(encoder), src, mask, src_key_padding_mask, bool(is_causal))
    valid = src_key_padding_mask.logical_not()
    left_out = valid.logical_not() & torch.ops.txgraph.is_left_aligned(valid)
    if src_key_padding_mask.is_floating_point():  # a bias that would hide no key; what is left out is seen by nobody
        src_key_padding_mask = src_key_padding_mask.masked_fill(left_out, -torch.inf)
    bare = _without_nested(encoder)
    vars(bare)["_modules"] = {**encoder._modules, "norm": None}
    hidden = _encode(bare, src, mask, src_key_padding_mask, bool(is_causal))
    hidden = hidden.masked_fill(left_out.unsqueeze(-1), 0.0)
    return hidden if encoder.norm is None else encoder.norm(hidden)


def _nests(encoder: nn.TransformerEncoder, src: torch.Tensor, mask: torch.Tensor | None) -> bool:
    """Whether eager makes a nested tensor, if the mask of padding permits it."""
    wanted = getattr(encoder, "use_nested_tensor", False)  # encoders that were pickled long ago lack it
    enabled = wanted and torch.backends.mha.get_fastpath_enabled()
    autocasts = torch.is_autocast_enabled()
    return enabled and not encoder.layers[0].training and src.dim() == 3 and mask is None and not autocasts


def _without_nested(encoder: nn.TransformerEncoder) -> Any:
    encoder = copy.copy(encoder)
    encoder.use_nested_tensor = False
    return encoder


def _decoder_forward(
    decoder: nn.TransformerDecoder,
    tgt: torch.Tensor,
    memory: torch.Tensor,
    tgt_mask: torch.Tensor | None = None,
    memory_mask: torch.Tensor | None = None,
    tgt_key_padding_mask: torch.Tensor | None = None,
    memory_key_padding_mask: torch.Tensor | None = None,
    tgt_is_causal: bool | None = None,
    memory_is_causal: bool = False,
) -> torch.Tensor:
    masks = (tgt_mask, memory_mask, tgt_key_padding_mask, memory_key_padding_mask)
    return _decode(decoder, tgt, memory, *masks, bool(tgt_is_causal), memory_is_causal)


_FORWARDS: dict[type[nn.Module], Any] = {
    nn.TransformerEncoder: _encoder_forward,
    nn.TransformerDecoder: _decoder_forward,
}
