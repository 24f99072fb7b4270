"""A linear in C++: as near to float64 as torch's own, for every width of vectors that the source knows."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from tests.backends.kernels.errors import as_near
from tests.helpers import normal
from txgraph.backends.kernels.linear import ACTIVATIONS, linears_native
from txgraph.ir.ops import ACTIVATIONS as FUNCTIONS

pytestmark = pytest.mark.usefixtures("every_processor")


def linear_native(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, activation: str) -> torch.Tensor:
    return linears_native(x, [weight], [bias], activation)[0]


SIZES = [  # M, K, N
    *((m, 20, 30) for m in (1, 3, 4, 5, 15, 16, 17, 33, 48, 49, 64, 65, 100)),  # every width of a panel
    *((9, k, 30) for k in (1, 2, 15, 16, 17, 127, 128, 129, 300)),
    *((9, 20, n) for n in (1, 5, 6, 7, 8, 23, 24, 25, 191, 192, 193, 400)),
    (513, 30, 10),  # more rows than are taken at a time
    (1100, 40, 70),
    (130, 300, 771),
]


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_every_size(sizes: tuple[int, int, int], bias: bool) -> None:
    m, k, n = sizes
    x, w, b = normal(m, k), normal(n, k), normal(n) if bias else None
    as_near(linear_native(x, w, b, ""), F.linear, x, w, b)
    by_columns = w.t().contiguous().t()  # as GPT-2 stores it
    as_near(linear_native(x, by_columns, b, ""), F.linear, x, w, b)


@pytest.mark.parametrize("activation", ACTIVATIONS[1:])
def test_activations(activation: str) -> None:
    """Of all numbers between those where they are flat."""
    x, one = torch.linspace(-12, 12, 10001)[:, None], torch.ones(1, 1)
    as_near(linear_native(x, one, None, activation), FUNCTIONS[activation], x)
    wide = normal(40, 30), normal(50, 30), normal(50)
    as_near(linear_native(*wide, activation), lambda *t: FUNCTIONS[activation](F.linear(*t)), *wide)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_unusual_numbers(activation: str) -> None:
    values = torch.tensor([math.nan, math.inf, -math.inf, 0.0, -0.0, 1e30, -1e30, 3e38, 1e-40, -1e-40, 100.0, -100.0])
    ours = linear_native(values[:, None], torch.ones(1, 1), None, activation)[:, 0]
    expected = FUNCTIONS[activation](values.double()).float() if activation else values  # eager's gelu(inf) is NaN
    torch.testing.assert_close(ours, expected, equal_nan=True, rtol=1e-6, atol=1e-37)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_row_keeps_its_numbers_to_itself(value: float) -> None:
    x, w = normal(20, 10), normal(30, 10)
    x[3, 4] = value
    result = linear_native(x, w, None, "")
    assert not result[3].isfinite().any()
    assert result[:3].isfinite().all()
    assert result[4:].isfinite().all()


def test_no_rows_and_nothing_to_sum() -> None:
    assert linear_native(torch.ones(0, 4), torch.ones(5, 4), None, "").shape == (0, 5)
    assert torch.equal(
        linear_native(torch.ones(2, 0), torch.ones(3, 0), torch.arange(3.0), ""), torch.arange(3.0).expand(2, 3)
    )
    assert linear_native(torch.ones(2, 4), torch.ones(0, 4), None, "").shape == (2, 0)


def test_any_strides() -> None:
    w = normal(30, 20)
    for x in (normal(20, 9).t(), normal(9, 50)[:, 7:27], normal(1, 20).expand(9, 20), normal(3, 5, 20).transpose(0, 1)):
        result = linear_native(x, w, None, "")
        assert result.is_contiguous()
        torch.testing.assert_close(result, F.linear(x, w))


def test_weights_and_biases_that_are_views() -> None:
    x, w, b = normal(9, 20), normal(20, 60)[:, ::2].t(), normal(60)[::2]
    torch.testing.assert_close(linear_native(x, w, b, ""), F.linear(x, w, b))
    expanded = normal(1).expand(30)
    torch.testing.assert_close(linear_native(x, w, expanded, ""), F.linear(x, w, expanded))


def test_numbers_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sums do not depend on how many threads share the work."""
    w, b = normal(500, 130), normal(500)
    for x in (normal(70, 130), normal(1, 130), normal(3, 130)):
        for weight in (w, w.t().contiguous().t()):
            results = []
            for threads in (1, 2, 7, 64):
                monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
                results.append(linear_native(x, weight, b, "silu"))
            assert all(torch.equal(results[0], other) for other in results[1:])


WIDTHS = [(30,), (1, 1), (7, 16, 9), (200, 0, 60), (24, 24), (193, 400)]


@pytest.mark.parametrize("widths", WIDTHS, ids=str)
@pytest.mark.parametrize("rows", [0, 1, 2, 3, 4, 17, 130, 513])
def test_several_weights(widths: tuple[int, ...], rows: int) -> None:
    """The same sums as of each alone."""
    x, weights = normal(rows, 50), [normal(n, 50) for n in widths]
    biases = [normal(n) if at % 2 == 0 else None for at, n in enumerate(widths)]
    for each in (weights, [w.t().contiguous().t() for w in weights]):
        results = linears_native(x, each, biases, "gelu")
        for result, weight, bias in zip(results, each, biases, strict=True):
            assert torch.equal(result, linear_native(x, weight, bias, "gelu"))


def test_weights_that_lie_differently() -> None:
    x, weights = normal(9, 20), [normal(20, 30).t(), normal(5, 20), normal(7, 40)[:, ::2]]
    for result, weight in zip(linears_native(x, weights, [None] * 3, ""), weights, strict=True):
        torch.testing.assert_close(result, F.linear(x, weight))


def test_what_torch_expects_of_an_operator() -> None:
    operands = (normal(2, 3, 8), [normal(5, 8), normal(3, 8)], [normal(5), None], "gelu")
    checks = {"test_utils": ("test_schema", "test_faketensor")}
    torch.library.opcheck(torch.ops.txgraph.linears_native.default, operands, **checks)
