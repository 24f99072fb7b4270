"""Packed tokens: where they are, and attention within each row of a batch."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F

from tests.helpers import FLOATS, normal

token_index = torch.ops.txgraph.token_index
ragged_attention = torch.ops.txgraph.ragged_attention
MASKS = {
    "right": torch.arange(6) < torch.tensor([6, 1, 3, 3])[:, None],
    "left": torch.arange(6) >= torch.tensor([0, 5, 3, 3])[:, None],
    "holes": torch.tensor([[1, 0, 1, 0, 0, 1], [0, 1, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1], [0, 0, 1, 0, 1, 0]]).bool(),
    "an empty row": torch.arange(6) < torch.tensor([2, 0, 6, 4])[:, None],
    "one row": torch.arange(6)[None] < 4,
    "nothing": torch.zeros(2, 6, dtype=torch.bool),
    "no rows": torch.zeros(0, 6, dtype=torch.bool),
    "no positions": torch.zeros(3, 0, dtype=torch.bool),
}


@pytest.mark.parametrize("valid", MASKS.values(), ids=MASKS)
def test_token_index(valid: torch.Tensor) -> None:
    row, position, lengths, first, last = token_index(valid)
    seen = torch.zeros_like(valid).index_put((row, position), torch.tensor(True))
    assert torch.equal(seen, valid)
    assert len(row) == int(valid.sum())
    assert torch.equal(lengths, valid.sum(1).sort().values)
    starts = [0, *lengths.cumsum(0).tolist()]
    for start, stop in itertools.pairwise(starts):  # each row's tokens lie together, in their order
        assert row[start:stop].unique().numel() <= 1
        assert torch.equal(position[start:stop], position[start:stop].sort().values)
    for at in valid.any(1).nonzero().flatten().tolist():
        places = valid[at].nonzero().flatten()
        assert (row[first[at]], position[first[at]]) == (at, places[0])
        assert (row[last[at]], position[last[at]]) == (at, places[-1])


@pytest.mark.parametrize(("name", "expected"), {"right": True, "left": False, "holes": False, "nothing": True}.items())
def test_is_left_aligned(name: str, expected: bool) -> None:
    assert bool(torch.ops.txgraph.is_left_aligned(MASKS[name])) is expected


@pytest.mark.parametrize("valid", MASKS.values(), ids=MASKS)
def test_left_aligned_as_torch_says(valid: torch.Tensor) -> None:
    ours = torch.ops.txgraph.is_left_aligned(valid)
    assert (ours.shape, ours.dtype) == ((), torch.bool)
    if valid.numel():
        assert bool(ours) is torch._nested_tensor_from_mask_left_aligned(torch.ones(*valid.shape, 2), valid)
    tests = ("test_schema", "test_faketensor")
    torch.library.opcheck(torch.ops.txgraph.is_left_aligned.default, (valid,), test_utils=tests)


def attended(
    valid: torch.Tensor, mask: torch.Tensor, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor
) -> torch.Tensor:
    """Attention on the padded batch: packed queries, in order."""
    row, position, *_ = token_index(valid)
    visible = mask & valid[:, None, None] if mask.dtype is torch.bool else mask.masked_fill(~valid[:, None, None], -1e9)
    gqa = q.shape[1] != k.shape[1]
    return F.scaled_dot_product_attention(q, k, v, visible, scale=0.3, enable_gqa=gqa).transpose(1, 2)[row, position]


REST = {
    "nothing": (None, False),
    "causal": (None, True),
    "boolean": (torch.rand(1, 1, 6, 6, generator=torch.Generator().manual_seed(0)) > 0.5, False),
    "of each row and head": (normal(4, 6, 6, 6), False),
    "of each head": (normal(1, 6, 6, 6), False),
    "of each key": (normal(4, 1, 1, 6), False),
    "of two axes": (normal(6, 6), False),
}


@pytest.mark.parametrize(("mask", "causal"), REST.values(), ids=REST)
@pytest.mark.parametrize("name", ["right", "left", "holes", "an empty row"])
@pytest.mark.parametrize("groups", [6, 2, 1])
def test_attention_within_each_row(name: str, mask: torch.Tensor | None, causal: bool, groups: int) -> None:
    valid = MASKS[name]
    if mask is not None and mask.dtype is torch.bool:
        mask = mask | torch.eye(6, dtype=torch.bool)  # each query sees itself
    q, k, v = normal(4, 6, 6, 8), normal(4, groups, 6, 8), normal(4, groups, 6, 5)
    row, position, lengths, *_ = token_index(valid)
    packed = [t.transpose(1, 2)[row, position] for t in (q, k, v)]
    result = ragged_attention(*packed, row, position, lengths, mask, causal, 0.3, groups != 6)
    rest = torch.ones(6, 6, dtype=torch.bool).tril() if causal else torch.ones(1, 1, dtype=torch.bool)
    torch.testing.assert_close(result, attended(valid, rest if mask is None else mask, q, k, v))


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_dtype_and_layout(dtype: torch.dtype) -> None:
    row, position, lengths, *_ = token_index(MASKS["right"])
    joint = normal(13, 3 * 4 * 8).to(dtype)
    q, k, v = (t.reshape(13, 4, 8) for t in joint.chunk(3, -1))
    result = ragged_attention(q, k, v, row, position, lengths, None, False, None, False)
    assert (result.dtype, result.shape, result.is_contiguous()) == (dtype, (13, 4, 8), True)
    contiguous = ragged_attention(
        *(t.contiguous() for t in (q, k, v)), row, position, lengths, None, False, None, False
    )
    torch.testing.assert_close(result, contiguous)


def test_what_torch_expects_of_an_operator() -> None:
    row, position, lengths, *_ = token_index(MASKS["right"])
    q = normal(13, 4, 8)
    for mask in (None, normal(1, 4, 6, 6)):
        args = (q, q, q, row, position, lengths, mask, False, None, False)
        torch.library.opcheck(ragged_attention.default, args, test_utils=("test_schema", "test_faketensor"))
    torch.library.opcheck(token_index.default, (MASKS["right"],), test_utils=("test_schema", "test_faketensor"))
