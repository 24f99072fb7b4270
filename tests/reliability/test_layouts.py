"""Inputs and weights of any layout give what contiguous ones give."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import nn

import txgraph
from tests.reliability.block import WIDTH, Block, block, normal, optimized
from tests.small import Encoder, assert_as_eager
from tests.zoo import tokens

INPUTS = {
    "transposed": normal(5, 3).transpose(0, 1),
    "last axis not dense": normal(3, 5).transpose(1, 2).contiguous().transpose(1, 2),
    "expanded": normal(1, 1).expand(3, 5, WIDTH),
    "one number": torch.full((), 0.5).expand(3, 5, WIDTH),
    "sliced": normal(6, 15)[::2, 2::3],
    "sliced inside": torch.cat([normal(3, 5)] * 2, -1)[..., 5 : 5 + WIDTH],
    "flipped": normal(3, 5).flip(1),
    "windows that overlap": torch.arange(40.0).as_strided((3, 5, WIDTH), (1, 4, 1)),
    "negated view": torch.complex(normal(3, 5), normal(5, 3).transpose(0, 1)).conj().imag,
    "a parameter": nn.Parameter(normal(3, 5)).data,
}


@functools.cache
def contiguous() -> tuple[Block, txgraph.OptimizedModel]:
    """Compiled with a contiguous input."""
    model = block()
    return model, optimized(model, normal(3, 5))


@pytest.mark.parametrize("name", INPUTS)
def test_inputs(name: str) -> None:
    """On a later call: bit for bit the answer for a contiguous copy, eager's answer, and no graph of their own."""
    model, fast = contiguous()
    x = INPUTS[name]
    before = x.clone()
    assert torch.equal(fast(x), fast(x.clone(memory_format=torch.contiguous_format).resolve_neg()))
    assert_as_eager(fast(x), model, x)
    assert torch.equal(x, before)
    assert len(fast.report.graphs) == 1


@pytest.mark.parametrize("name", ["transposed", "one number"])
def test_inputs_as_the_example(name: str) -> None:
    model = block()
    fast = optimized(model, INPUTS[name], verify="final")
    assert_as_eager(fast(INPUTS[name]), model, INPUTS[name])
    assert_as_eager(fast(normal(3, 5)), model, normal(3, 5))


def test_token_ids_and_masks() -> None:
    model, inputs = Encoder(), tokens(6, 6)
    fast = optimized(model, kwargs=inputs, verify="off")
    for change in (torch.t, lambda t: t[:1].expand(6, 6), lambda t: torch.cat([t, t], 1)[:, ::2]):
        changed = {name: change(tensor) for name, tensor in inputs.items()}
        assert not changed["input_ids"].is_contiguous()
        assert_as_eager(fast(**changed), model, **changed)
    assert len(fast.report.graphs) == 1


def test_weights() -> None:
    """Stored transposed, in steps, and as one number for all."""
    model = block()
    model.query.weight = nn.Parameter(model.query.weight.detach().t().contiguous().t())
    model.up.weight = nn.Parameter(torch.cat([model.up.weight.detach()] * 2, 1)[:, ::2])
    model.down.bias = nn.Parameter(torch.tensor(0.25).expand(WIDTH))
    x = normal(3, 5)
    assert_as_eager(optimized(model, x, verify="final")(x), model, x)
