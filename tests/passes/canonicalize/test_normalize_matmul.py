"""Products of batches of matrices have one form."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.export import Dim

from tests.helpers import FLOATS, assert_numbers, normal, rewritten
from tests.small import apply, graph_of, module, traced
from txgraph.passes.canonicalize.normalize_matmul import NormalizeMatmul

RULE = NormalizeMatmul()
A, B = normal(6, 4, 8), normal(6, 8, 5)
C = normal(6, 4, 5)

Tensor = torch.Tensor


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_products_of_batches(dtype: torch.dtype) -> None:
    assert rewritten(RULE, lambda a, b: torch.bmm(a, b), A.to(dtype), B.to(dtype)).count() == {"matmul": 1}
    assert rewritten(RULE, lambda a, b: torch.mm(a, b), A[0].to(dtype), B[0].to(dtype)).count() == {"matmul": 1}


@pytest.mark.parametrize("shape", [(6, 4, 5), (6, 1, 5), (1, 1, 5), (4, 5), (5,)], ids=str)
@pytest.mark.parametrize(
    ("beta", "alpha", "count"),
    [(1, 1, {"add": 1}), (1, 0.5, {"add": 1, "mul": 1}), (2.0, 0.5, {"add": 1, "mul": 2}), (0, 0.5, {"mul": 1})],
)
def test_products_that_are_added(shape: tuple[int, ...], beta: float, alpha: float, count: dict[str, int]) -> None:
    function = lambda c, a, b: torch.baddbmm(c, a, b, beta=beta, alpha=alpha)  # noqa: E731
    assert rewritten(RULE, function, normal(*shape), A, B).count() == {"matmul": 1, **count}


def test_what_is_added_times_zero_does_not_count() -> None:
    function = lambda c, a, b: torch.baddbmm(c, a, b, beta=0)  # noqa: E731
    assert rewritten(RULE, function, torch.full_like(C, float("nan")), A, B).count() == {"matmul": 1}


Q, K = normal(2, 3, 4, 8), normal(2, 3, 5, 8)
EINSUMS: list[tuple[str, Tensor, Tensor, dict[str, int]]] = [
    ("bhid,bhjd->bhij", Q, K, {"transpose": 1}),
    ("bhij,bhjd->bhid", normal(2, 3, 4, 5), K, {}),
    ("bqhd,bkhd->bhqk", normal(2, 4, 3, 8), normal(2, 5, 3, 8), {"transpose": 1, "permute": 1}),
    ("bhqk,bkhd->bqhd", normal(2, 3, 4, 5), normal(2, 5, 3, 8), {"transpose": 2}),
    ("b h i d, b h j d -> b h i j", Q, K, {"transpose": 1}),
    ("ik,kj->ij", normal(4, 8), normal(8, 5), {}),
    ("ki,kj->ji", normal(8, 4), normal(8, 5), {"transpose": 2}),
    ("nbd,mbd->bnm", normal(4, 2, 8), normal(5, 2, 8), {"transpose": 1, "permute": 1}),
]


@pytest.mark.parametrize(("equation", "a", "b", "moves"), EINSUMS, ids=[e[0] for e in EINSUMS])
def test_einsums(equation: str, a: Tensor, b: Tensor, moves: dict[str, int]) -> None:
    after = rewritten(RULE, lambda a, b: torch.einsum(equation, a, b), a, b)
    assert after.count() == {"matmul": 1, **moves}


OTHERS: list[tuple[str, list[Tensor]]] = [
    ("bhid,bhjd->bhij", [Q, K[:1]]),  # broadcast
    ("i,j->ij", [normal(3), normal(4)]),
    ("bid,bid->bi", [normal(2, 3, 4), normal(2, 3, 4)]),
    ("bijd,bjkd->bik", [normal(2, 3, 4, 5), normal(2, 4, 6, 5)]),  # contracts two axes
    ("bi,ij,jk->bk", [normal(2, 3), normal(3, 4), normal(4, 5)]),
    ("ii->i", [normal(3, 3)]),
    ("...id,...jd->...ij", [Q, K]),
    ("bid,dj->bij", [normal(2, 3, 4), normal(4, 5)]),  # the second has no batch
    ("bid,bjd->ij", [normal(2, 3, 4), normal(2, 5, 4)]),  # sums over the batch, too
    ("bhid,bhjd", [Q, K]),
]


@pytest.mark.parametrize(("equation", "operands"), OTHERS, ids=[o[0] for o in OTHERS])
def test_other_einsums_stay(equation: str, operands: list[Tensor]) -> None:
    functions: dict[int, Callable[..., Tensor]] = {
        1: lambda a: torch.einsum(equation, a),
        2: lambda a, b: torch.einsum(equation, a, b),
        3: lambda a, b, c: torch.einsum(equation, a, b, c),
    }
    assert apply(RULE, traced(functions[len(operands)], *operands))[1] == []


@pytest.mark.parametrize("edge", [float("nan"), float("inf"), -0.0])
def test_edge_values(edge: float) -> None:
    q = Q.clone()
    q[0, 0, 0, 0] = edge
    rewritten(RULE, lambda a, b: torch.einsum("bhid,bhjd->bhij", a, b), q, K)


def test_dynamic_sizes() -> None:
    model = module(lambda q, k: torch.einsum("bqhd,bkhd->bhqk", q, k))
    batch = Dim("B")
    q, k = normal(2, 4, 3, 8), normal(2, 5, 3, 8)
    graph = graph_of(model, q, k, dynamic_shapes=({0: batch, 1: Dim("S")}, {0: batch, 1: Dim("T")}))
    after, _ = apply(RULE, graph)
    assert after.count()["matmul"] == 1
    for b, s, t in ((2, 4, 5), (3, 7, 2)):
        assert_numbers(after, model.forward, normal(b, s, 3, 8), normal(b, t, 3, 8))


def test_several_in_one_graph() -> None:
    def function(a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        return torch.bmm(a, b), torch.baddbmm(c, a, b)

    both: Callable[..., object] = function
    assert rewritten(RULE, both, A, B, C).count() == {"add": 1, "matmul": 2}
