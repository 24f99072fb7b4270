"""Fake quantization: number by number what quantized operators multiply, and gradients as if nothing were rounded."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tests.helpers import EDGES, normal
from txgraph.ir.quantized import LARGEST, quantize_rows, quantize_weight, quantize_weight_grouped

OPS = torch.ops.txgraph


@pytest.mark.parametrize("divided", [False, True])
def test_rows_are_values_times_scales(divided: bool) -> None:
    x = torch.cat([normal(2, 3, 64), normal(2, 1, 64) * 0], 1)
    divisor = normal(64).abs() + 0.5 if divided else None
    values, scales = quantize_rows(x, divisor)
    assert torch.equal(OPS.fake_quantize_rows(x, divisor), values.float() * scales)
    exact = x if divisor is None else x / divisor
    assert ((OPS.fake_quantize_rows(x, divisor) - exact).abs() <= scales / 2 * (1 + LARGEST * 2**-22)).all()


@pytest.mark.parametrize("edge", EDGES)
def test_rows_at_edges_give_what_the_quantized_form_gives(edge) -> None:
    x, weight = edge(normal(2, 3, 64)), normal(8, 64)
    values, scales = quantize_rows(x, None)
    integers, steps = quantize_weight(weight)
    real = OPS.int8_linears(values, scales, [integers], [steps], [None], "")[0]
    fake = F.linear(OPS.fake_quantize_rows(x, None), OPS.fake_quantize_weight(weight, None, 8, 0))
    torch.testing.assert_close(fake, real, rtol=2e-5, atol=1e-35, equal_nan=True)  # 64 sums in float32


@pytest.mark.parametrize(("bits", "group"), [(8, 0), (4, 32), (4, 64)])
def test_weights_are_values_times_scales(bits: int, group: int) -> None:
    weight, divisor = normal(8, 64), normal(64).abs() + 0.5
    values, scales = quantize_weight_grouped(weight * divisor, bits, group)
    ones = torch.eye(64)
    (expected,) = OPS.weight_only_linears(ones, [values], [scales], [None], "", bits, group)
    assert torch.equal(OPS.fake_quantize_weight(weight, divisor, bits, group), expected.t())
    wide = OPS.fake_quantize_weight(weight.double(), divisor.double(), bits, group)  # the integers are the same
    torch.testing.assert_close(wide, expected.t().double(), rtol=2**-23, atol=0)


def test_gradients_pass_straight_through() -> None:
    x, weight, divisor = normal(5, 64).requires_grad_(), normal(8, 64).requires_grad_(), normal(64).abs() + 0.5
    g = normal(5, 64)
    OPS.fake_quantize_rows(x, divisor).backward(g)
    assert torch.equal(x.grad, g / divisor)
    h = normal(8, 64)
    OPS.fake_quantize_weight(weight, divisor, 4, 32).backward(h)
    assert torch.equal(weight.grad, h * divisor)
    x.grad = None
    OPS.fake_quantize_rows(x, None).backward(g)
    assert torch.equal(x.grad, g)


def test_operators_are_registered_as_torch_wants_them() -> None:
    tests = ("test_schema", "test_faketensor", "test_autograd_registration")
    torch.library.opcheck(OPS.fake_quantize_rows.default, (normal(5, 64).requires_grad_(), None), test_utils=tests)
    weight = normal(8, 64).requires_grad_()
    torch.library.opcheck(OPS.fake_quantize_weight.default, (weight, normal(64), 4, 32), test_utils=tests)


def test_groups_that_do_not_fit_are_an_error() -> None:
    with pytest.raises(ValueError, match="multiple"):
        OPS.fake_quantize_weight(normal(8, 48), None, 4, 32)
