"""Rounding by second moments, and clips: nearer than each number by itself."""

from __future__ import annotations

import torch

from tests.helpers import normal
from txgraph.ir.quantized import dequantize_weight, quantize_weight
from txgraph.passes.precision.rounding import IN_CACHE, _factor_of_inverse, clipped_scales, round_weight

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


def test_the_factor_that_errors_are_passed_on_by() -> None:
    """Upper triangular, and its square the inverse: in halves and as a whole."""
    x = normal(300, 150).double()
    moments = x.T @ x / 300 + 0.1 * torch.eye(150, dtype=torch.float64)
    factor = _factor_of_inverse(moments)
    assert torch.equal(factor, factor.triu())
    torch.testing.assert_close(factor.T @ factor, moments.inverse(), rtol=1e-9, atol=1e-9)


def test_without_moments_each_number_is_rounded_by_itself() -> None:
    scales = clipped_scales(W, 127, None)
    assert torch.equal(scales, clipped_scales(W, 127, torch.ones(64)))
    plain = round_weight(W, scales[:, None], -127, 127, None)
    assert torch.equal(plain, round_weight(W, scales[:, None], -127, 127, torch.eye(64, dtype=torch.float64)))


def test_scales_do_not_depend_on_how_many_rows_are_looked_at_together() -> None:
    many = normal(IN_CACHE // 64 * 2 + 5, 64)
    scales = clipped_scales(many, 127, torch.linspace(0.5, 2.0, 64))
    assert torch.equal(scales[-3:], clipped_scales(many[-3:], 127, torch.linspace(0.5, 2.0, 64)))
