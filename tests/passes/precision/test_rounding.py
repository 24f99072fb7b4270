"""Rounding by second moments, and clips: nearer than each number by itself."""

from __future__ import annotations

import torch

from tests.helpers import normal
from txgraph.ir.quantized import dequantize_weight, quantize_weight
from txgraph.passes.precision.rounding import IN_CACHE, clipped_scales, round_weight

W = normal(32, 64)


def test_rounding_by_moments_is_nearer_than_rounding_each() -> None:
    """On inputs that are correlated, which is what it knows."""
    mixing = normal(64, 8)
    x = normal(500, 8) @ mixing.T + 0.1 * normal(500, 64)
    values, scales = quantize_weight(W)
    plain = dequantize_weight(values, scales)
    moments = (x.T @ x / len(x)).double() + 1e-4 * torch.eye(64)
    better = round_weight(W, scales[:, None], -127, 127, moments) * scales[:, None]
    error, nearer = (float(((each - W) @ x.T).norm()) for each in (plain, better))
    assert nearer < 0.5 * error
    each_by_itself = round_weight(W, scales[:, None], -127, 127, torch.eye(64, dtype=torch.float64))
    assert torch.equal(each_by_itself.to(torch.int8), values)  # where inputs are not correlated


def test_rounding_stays_in_range_and_knows_zeros() -> None:
    weight = W.clone()
    weight[3] = 0
    scales = clipped_scales(weight, 127, torch.ones(64))
    values = round_weight(weight, scales[:, None], -127, 127, torch.eye(64, dtype=torch.float64))
    assert float(values.abs().max()) <= 127
    assert bool((values[3] == 0).all())
    assert bool((scales <= weight.abs().amax(1) / 127).all())


def test_clips_where_that_is_nearer() -> None:
    weight = normal(4, 4096)
    weight[:, 0] = 40.0  # one number that spoils the scale, on a channel that counts for nothing
    importance = torch.ones(4096)
    importance[0] = 0
    assert bool((clipped_scales(weight, 127, importance) < 40 / 127 * 0.75).all())


def test_it_is_the_published_rounding() -> None:
    """As GPTQ says it: of the inverse moments of the columns that are left, the first row passes the error on."""
    mixed = normal(300, 80) @ normal(80, 80)
    moments = (mixed.T @ mixed / 300).double() + 0.1 * torch.eye(80, dtype=torch.float64)
    weight = normal(12, 80)
    scales = weight.abs().amax(1) / 7
    expected, rest = torch.empty(12, 80), weight.double()
    left = moments.diagonal().argsort(descending=True, stable=True).tolist()
    while left:
        inverse = moments[left][:, left].inverse()
        expected[:, left[0]] = (rest[:, left[0]] / scales).round().clamp(-7, 7)
        error = (rest[:, left[0]] - expected[:, left[0]] * scales) / inverse[0, 0]
        rest[:, left] -= error[:, None] * inverse[0]
        left = left[1:]
    found = round_weight(weight, scales[:, None], -7, 7, moments)
    assert float((found != expected).float().mean()) < 0.01  # float32 rounds some that lie in the middle otherwise
    assert not torch.equal(found, round_weight(weight, scales[:, None], -7, 7, None))


def test_without_moments_each_number_is_rounded_by_itself() -> None:
    scales = clipped_scales(W, 127, None)
    assert torch.equal(scales, clipped_scales(W, 127, torch.ones(64)))
    plain = round_weight(W, scales[:, None], -127, 127, None)
    assert torch.equal(plain, round_weight(W, scales[:, None], -127, 127, torch.eye(64, dtype=torch.float64)))


def test_scales_do_not_depend_on_how_many_rows_are_looked_at_together() -> None:
    many = normal(IN_CACHE // 64 * 2 + 5, 64)
    scales = clipped_scales(many, 127, torch.linspace(0.5, 2.0, 64))
    assert torch.equal(scales[-3:], clipped_scales(many[-3:], 127, torch.linspace(0.5, 2.0, 64)))
