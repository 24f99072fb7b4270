"""Layouts: what a reshape or permute of a padded value is on packed tokens."""

from __future__ import annotations

import itertools
import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from txgraph.passes.padding.layout import Layout, TokenAxes, expression

B, S = 3, 5
TOKENS = TokenAxes(B, S)
SIZES = {"batch": B, "sequence": S}


def positions(layout: Layout) -> tuple[torch.Tensor, torch.Tensor]:
    """A padded value that holds its own element numbers, and the packed one: ``[B * S, ...]`` in row-major order."""
    parts = [part for axis in layout.axes for part in axis]
    sizes = [SIZES.get(part, part) for part in parts]
    names = ["batch", "sequence", *(at for at, part in enumerate(parts) if isinstance(part, int))]
    packed = torch.arange(math.prod(sizes)).reshape(B, S, *(p for p in parts if isinstance(p, int)))
    order = [names.index(part if isinstance(part, str) else at) for at, part in enumerate(parts)]
    shape = [math.prod(SIZES.get(part, part) for part in axis) for axis in layout.axes]
    return packed.permute(order).reshape(shape), packed.flatten(0, 1)


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    plain = draw(st.lists(st.sampled_from([1, 2, 3, 4, 5, 6, 15]), min_size=0, max_size=3))
    parts = draw(st.permutations(["batch", "sequence", *plain]))
    cuts = draw(st.sets(st.integers(1, len(parts) - 1)))
    bounds = [0, *sorted(cuts), len(parts)]
    axes = []
    for start, stop in itertools.pairwise(bounds):
        axis = parts[start:stop]
        if not any(isinstance(part, str) for part in axis):
            axis = [math.prod(axis)]
        axes.append(tuple(part for part in axis if part != 1 or len(axis) == 1))
    return Layout(tuple(axes))


@given(layouts(), st.data())
def test_a_reshape_is_a_reshape_of_packed_tokens(layout: Layout, data: st.DataObject) -> None:
    padded, packed = positions(layout)
    factors = [p for size in padded.shape for p in _primes(size)]
    cuts = sorted(data.draw(st.sets(st.integers(0, len(factors)))))
    bounds = [0, *cuts, len(factors)]
    shape = [math.prod(factors[a:b]) for a, b in itertools.pairwise(bounds)]
    result = layout.reshaped(shape, TOKENS)
    if result is None:
        return  # a token axis would be cut
    expected, same = positions(result)
    assert torch.equal(_gathered(padded.reshape(shape), result), packed.reshape(same.shape))
    assert [len(result.plain_sizes(at)) > 0 or not result.is_plain(at) for at in range(result.rank)]
    assert expected.shape == tuple(shape)


@given(layouts(), st.data())
def test_a_permutation(layout: Layout, data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(layout.rank)))
    padded, packed = positions(layout)
    result = layout.permuted(order)
    moved = [layout.packed_axis(axis) + at for axis in order for at in range(len(layout.plain_sizes(axis)))]
    assert torch.equal(_gathered(padded.permute(order), result), packed.permute(0, *moved))


def _gathered(padded: torch.Tensor, layout: Layout) -> torch.Tensor:
    """The packed form of a padded value, by its layout: axes of all parts, tokens in front."""
    parts = [part for axis in layout.axes for part in axis]
    whole = padded.reshape([SIZES.get(part, part) for part in parts])
    plain = [at for at, part in enumerate(parts) if isinstance(part, int)]
    return whole.permute(parts.index("batch"), parts.index("sequence"), *plain).flatten(0, 1)


def _primes(number: int) -> list[int]:
    found, divisor = [], 2
    while number > 1:
        while number % divisor == 0:
            found.append(divisor)
            number //= divisor
        divisor += 1
    return found


def test_heads_and_back() -> None:
    layout = Layout((("batch",), ("sequence",), (12,)))
    heads = layout.reshaped([B, S, 4, 3], TOKENS)
    assert heads == Layout((("batch",), ("sequence",), (4,), (3,)))
    moved = heads.permuted([0, 2, 1, 3])
    assert (moved.packed_sizes, moved.axis_of("sequence"), moved.packed_axis(1)) == ([4, 3], 2, 1)
    assert moved.permuted([0, 2, 1, 3]).reshaped([B, S, 12], TOKENS) == layout


def test_rows_and_heads_in_one_axis() -> None:
    layout = Layout((("sequence",), ("batch",), (12,)))
    joint = layout.reshaped([S, B * 4, 3], TOKENS)
    assert joint == Layout((("sequence",), ("batch", 4), (3,)))
    assert joint.permuted([1, 0, 2]).reshaped([B, 4, S, 3], TOKENS).axis_of("sequence") == 2


def test_what_cuts_tokens_into_pieces() -> None:
    tokens = TokenAxes(4, 6)
    layout = Layout((("batch",), ("sequence",), (8,)))
    assert layout.reshaped([2, 2, 6, 8], tokens) is None
    assert layout.reshaped([4, 3, 16], tokens) is None
    assert layout.reshaped([6, 4, 8], tokens) is None  # the same numbers at other places
    assert layout.reshaped([24, 8], tokens) == Layout((("batch", "sequence"), (8,)))
    assert layout.reshaped([4, 0, 8], tokens) is None


def test_sizes_of_any_kind() -> None:
    assert expression(5) == 5
    assert Layout((("batch",), (7,))).resized([3, 9]) == Layout((("batch",), (9,)))
    assert Layout((("batch",), (7,))).resized([3, 9, 1]) is None
