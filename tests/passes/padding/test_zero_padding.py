"""``padding="zeros"``: outputs that are zero at padding, and only these."""

from __future__ import annotations

import torch

from tests.padded import (
    RIGHT,
    Encoder,
    assert_close,
    ids,
    is_packed,
    keys,
    optimized,
)

Tensor = torch.Tensor


def test_only_outputs_may_be_zeros() -> None:
    """``padding="zeros"`` is a word about outputs: a mean over all positions still sees padding."""
    model = Encoder(keys, lambda x, m: (x, x.mean(1)))
    fast = optimized(model, "zeros", ids=ids(), mask=RIGHT)
    assert not is_packed(fast)
    hidden, average = fast(ids(), RIGHT)
    expected, of_all = model(ids(), RIGHT)
    assert_close(average, of_all)
    assert_close(hidden, expected, RIGHT)
    assert not hidden[~RIGHT].any()


def test_zeros_at_padding() -> None:
    model = Encoder(keys, lambda x, m: (x, x[:, 0], {"again": x, "moved": x.transpose(1, 2)}))
    fast = optimized(model, "zeros", ids=ids(), mask=RIGHT)
    assert is_packed(fast)
    hidden, first, more = fast(ids(), RIGHT)
    expected, expected_first, _ = model(ids(), RIGHT)
    assert_close(hidden, expected, RIGHT)
    assert_close(first, expected_first)
    assert_close(more["moved"].transpose(1, 2), hidden)
    for value in (hidden, more["again"], more["moved"].transpose(1, 2)):
        assert not value[~RIGHT].any()
    full = fast(ids(), torch.ones_like(RIGHT))
    assert_close(full[0], model(ids(), torch.ones_like(RIGHT))[0])
