"""Linears without the zeros of their weights: as near to float64 as torch's own, whatever the pattern."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from tests.backends.kernels.errors import as_near
from tests.helpers import normal
from txgraph.backends.kernels.linear import ACTIVATIONS
from txgraph.backends.kernels.sparse_linear import GROUPS, WIDEST, listed, pack, sparse_linears_native
from txgraph.ir.ops import ACTIVATIONS as FUNCTIONS

pytestmark = pytest.mark.usefixtures("every_processor")
Tensor = torch.Tensor


def pruned(n: int, k: int, share: float = 0.2, rows: int = 1, columns: int = 1) -> Tensor:
    """``[N, K]`` with blocks of zeros."""
    generator = torch.Generator().manual_seed(n * 7 + k)
    kept = torch.rand(-(-n // rows), -(-k // columns), generator=generator) < share
    return normal(n, k) * kept.repeat_interleave(rows, 0)[:n].repeat_interleave(columns, 1)[:, :k]


def near(ours: Tensor, x: Tensor, w: Tensor, bias: Tensor | None = None) -> None:
    """No further from float64 than sums of K + 1 rounded products can be.

    Source: Higham 2002 (Accuracy and stability of numerical algorithms), section 3.1.
    """
    exact = F.linear(x.double(), w.double(), None if bias is None else bias.double())
    sizes = F.linear(x.double().abs(), w.double().abs(), None if bias is None else bias.double().abs())
    assert ours.dtype is torch.float32
    assert ((ours - exact).abs() <= (x.shape[-1] + 2) * torch.finfo(torch.float32).eps / 2 * sizes).all()


def sparse_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str = "", group: int = 1, block: int = WIDEST
) -> Tensor:
    (result,) = sparse_linears_native(x, [pack(weight, group, block)], [bias], activation, [len(weight)], block)
    return result


SIZES = [  # M, K, N, columns of a block
    *((m, 40, 30, 16) for m in (1, 2, 15, 16, 17, 33, 49, 64, 65, 100)),  # every width of a panel
    *((m, k, 9, 32) for m in (1, 9) for k in (1, 31, 32, 33, 100)),
    *((m, 70, n, 64) for m in (1, 9) for n in (1, 3, 4, 5, 23, 24, 25, 193, 400)),
    (9, 600, 30, 256),  # all that 8 bits can count
    (1, 600, 30, 256),
    (1100, 40, 30, 128),  # more rows than are taken at a time
]


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_every_size(sizes: tuple[int, int, int, int], group: int) -> None:
    m, k, n, block = sizes
    x, w, b = normal(m, k), pruned(n, k), normal(n)
    near(sparse_linear(x, w, b, "", group, block), x, w, b)


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("rows", [1, 20])
def test_patterns(rows: int, group: int) -> None:
    """Also all zeros, none, and rows, columns and corners alone."""
    x = normal(rows, 100)
    weights = [pruned(50, 100, 0.3, *blocks) for blocks in ((1, 1), (4, 1), (1, 4), (16, 16), (50, 1), (1, 100))]
    corners = torch.zeros(50, 100)
    corners[0, 0], corners[-1, -1] = 2, 3
    for w in (*weights, torch.zeros(50, 100), normal(50, 100), corners):
        near(sparse_linear(x, w, None, "", group, 32), x, w)


@pytest.mark.parametrize("activation", ACTIVATIONS[1:])
def test_activations(activation: str) -> None:
    for rows in (1, 40):
        operands = normal(rows, 30), pruned(50, 30), normal(50)
        expected = lambda *t: FUNCTIONS[activation](F.linear(*t))  # noqa: E731
        as_near(sparse_linear(*operands, activation), expected, *operands)


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("rows", [1, 20])
def test_what_is_not_finite_stays_in_its_row_and_where_there_is_a_weight(rows: int, group: int) -> None:
    x, w = normal(rows, 10), torch.zeros(8, 10)
    w[2, 3], w[5, 4] = 1, 1
    x[-1, 3] = math.inf
    result = sparse_linear(x, w, None, "", group)
    assert result[-1, 2] == math.inf
    assert result[-1, 5] == x[-1, 4]
    assert result[:-1].isfinite().all()
    assert sparse_linear(normal(rows, 10), w * math.nan, None, "", group).isnan().all()


def test_numbers_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    w, b = pruned(500, 130), normal(500)
    for x in (normal(70, 130), normal(1, 130)):
        results = []
        for threads in (1, 2, 7, 64):
            monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
            results.append(sparse_linear(x, w, b, "silu"))
        assert all(torch.equal(results[0], other) for other in results[1:])


@pytest.mark.parametrize("rows", [0, 1, 17, 513])
def test_several_weights(rows: int) -> None:
    """In groups of their own, and the same sums as of each alone."""
    x, weights = normal(rows, 50), [pruned(n, 50) for n in (7, 200, 1)]
    biases, packed = (
        [normal(7), None, normal(1)],
        [pack(w, group, 32) for w, group in zip(weights, (1, 4, 4), strict=True)],
    )
    results = sparse_linears_native(x, packed, biases, "gelu", [7, 200, 1], 32)
    for result, weight, bias, group in zip(results, weights, biases, (1, 4, 4), strict=True):
        assert torch.equal(result, sparse_linear(x, weight, bias, "gelu", group, 32))


def test_any_strides() -> None:
    w = pruned(30, 20)
    for x in (normal(20, 9).t(), normal(9, 50)[:, 7:27], normal(3, 5, 20).transpose(0, 1)):
        torch.testing.assert_close(sparse_linear(x, w), F.linear(x, w))
        torch.testing.assert_close(
            sparse_linear(x, w.t().contiguous().t(), normal(60)[::2]), F.linear(x, w, normal(60)[::2])
        )


def test_what_is_stored() -> None:
    """Five bytes for each number that is not zero, and sizes in steps, so that layers have one type."""
    w = torch.zeros(64, 128)
    w[:4, :10], w[9, 5] = 1, 1
    assert (listed(w, 1), listed(w, 4)) == (41, 44)
    starts = 4 * (3 + 64 + 1)
    packed = pack(w, 1, 128)
    assert starts + 5 * 41 <= len(packed) < starts + 5 * 41 + w.nbytes // 32
    assert len(packed) == len(pack(w * (torch.arange(128) < 8), 1, 128))


def test_what_torch_expects_of_an_operator() -> None:
    operands = (normal(2, 3, 8), [pack(pruned(5, 8), 1, 32)], [normal(5)], "gelu", [5], 32)
    checks = {"test_utils": ("test_schema", "test_faketensor")}
    torch.library.opcheck(torch.ops.txgraph.sparse_linears_native.default, operands, **checks)
