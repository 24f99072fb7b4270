"""The linears of a mixture of experts: one product for each expert instead of a weight for each token."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.export import Dim

from tests.helpers import FLOATS, assert_numbers, normal, reasons, rewritten
from tests.small import apply, graph_of, module, traced
from txgraph import PassContext, Target
from txgraph.cost import HARDWARE, CostModel
from txgraph.passes.fuse.fuse_expert_linears import FuseExpertLinears

Tensor = torch.Tensor
RULE = FuseExpertLinears()
UNWEIGHED = type("FuseExpertLinears", (FuseExpertLinears,), {"gain": lambda *_: None})()
X, W = normal(12, 8), normal(3, 6, 8)
EXPERT = torch.arange(12) * 7 % 3
FUSED = {"txgraph::expert_linear": 1, "unsqueeze": 1, "squeeze": 1}


def w_first(x: Tensor, e: Tensor, w: Tensor) -> Tensor:
    return (w[e] @ x.unsqueeze(-1)).squeeze(-1)


def x_first(x: Tensor, e: Tensor, w: Tensor) -> Tensor:
    return (x.unsqueeze(1) @ w.transpose(1, 2)[e]).squeeze(1)


FORMS: dict[str, Callable[..., Tensor]] = {"w first": w_first, "x first": x_first}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_forms(form: Callable[..., Tensor], dtype: torch.dtype) -> None:
    after = rewritten(UNWEIGHED, form, X.to(dtype), EXPERT, w=W.to(dtype))
    assert FUSED.items() <= after.count().items()
    assert not {"matmul", "index"} & after.count().keys()


@pytest.mark.parametrize("fuses", [True, False])
def test_large_ones_pay(fuses: bool) -> None:
    context = PassContext(cost=CostModel(HARDWARE["cpu-avx2"], fuses))
    x, w, e = normal(128, 128), normal(4, 256, 128), torch.arange(128) % 4
    assert rewritten(RULE, w_first, x, e, context=context, w=w).count()["txgraph::expert_linear"] == 1


@pytest.mark.parametrize(("fuses", "kept"), [(True, True), (False, False)])
def test_few_rows_pay_only_where_their_weights_would_be_copied(fuses: bool, kept: bool) -> None:
    context = PassContext(cost=CostModel(HARDWARE["cpu-avx2"], fuses))
    x, w, e = normal(8, 256), normal(4, 512, 256), torch.arange(8) % 4
    _, rewrites = apply(RULE, traced(w_first, x, e, w=w), context)
    assert (rewrites == []) is kept


def test_weights_may_be_computed() -> None:
    after = rewritten(UNWEIGHED, lambda x, e, w: w_first(x, e, w * 2), X, EXPERT, W)
    assert after.count()["txgraph::expert_linear"] == 1


EXPERTS: dict[str, Tensor] = {
    "one of them alone": torch.ones(12, dtype=torch.int64),
    "from the end": EXPERT - 3,
    "some from the end": torch.where(EXPERT == 1, EXPERT - 3, EXPERT),
    "32 bits": EXPERT.int(),
    "in no order": torch.randperm(12, generator=torch.Generator().manual_seed(0)) % 3,
}


@pytest.mark.parametrize("expert", EXPERTS.values(), ids=EXPERTS.keys())
def test_experts(expert: Tensor) -> None:
    assert rewritten(UNWEIGHED, w_first, X, expert, w=W).count()["txgraph::expert_linear"] == 1


@pytest.mark.parametrize("rows", [0, 1, 2, 13])
def test_rows(rows: int) -> None:
    rewritten(UNWEIGHED, w_first, normal(rows, 8), torch.arange(rows) % 3, w=W)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.0, 1e-40, 1e38])
def test_edge_values(value: float) -> None:
    """One expert's weight does not reach the rows of another."""
    rewritten(UNWEIGHED, w_first, X.index_fill(0, torch.tensor(1), value), EXPERT, w=W)
    rewritten(UNWEIGHED, w_first, X, EXPERT, w=W.index_fill(0, torch.tensor(1), value))


def test_sizes_that_vary() -> None:
    model = module(lambda x, e: w_first(x, e, W))
    graph = graph_of(model, X, EXPERT, dynamic_shapes=({0: Dim("N")}, {0: Dim("N")}))
    after, rewrites = apply(UNWEIGHED, graph)
    assert len(rewrites) == 1
    for rows in (2, 5, 40):
        assert_numbers(after, lambda x, e: w_first(x, e, W), normal(rows, 8), torch.arange(rows) % 3)


def test_an_expert_that_does_not_exist() -> None:
    with pytest.raises(IndexError, match="an expert is not among the 3 of the weight"):
        torch.ops.txgraph.expert_linear(X, W, EXPERT + 1)


# What must not be fused, and why.


PICKS: dict[str, tuple[Callable[..., Tensor], Tensor]] = {
    "[i64[12], i64[12]]": (lambda x, e, w: w[e, e % 2] @ x.unsqueeze(-1), normal(3, 2, 6, 8)),
    "[i64[4, 3]]": (lambda x, e, w: w[e.reshape(4, 3)] @ x[:1].unsqueeze(-1), W),
    "[all, i64[12]]": (lambda x, e, w: w[:, e % 2] @ x[:3].unsqueeze(-1), W),
}


@pytest.mark.parametrize(("types", "function", "w"), [(k, *v) for k, v in PICKS.items()], ids=PICKS.keys())
def test_other_picks(types: str, function: Callable[..., Tensor], w: Tensor) -> None:
    assert f"the weights of experts are picked by {types} from" in reasons(UNWEIGHED, function, X, EXPERT, w=w)[0]


def test_rows_that_broadcast() -> None:
    one = lambda x, e, w: w[e] @ x[:1].unsqueeze(-1)  # noqa: E731
    assert "the picked weights 12 of" in reasons(UNWEIGHED, one, X, EXPERT, w=W)[0]
    matrices = lambda x, e, w: w[e] @ x.reshape(12, 8, 1, 1).squeeze(-1).unsqueeze(0)  # noqa: E731
    assert "expected a row for each token" in reasons(UNWEIGHED, matrices, X, EXPERT, w=W)[0]


def test_picked_weights_used_elsewhere() -> None:
    def twice(x: Tensor, e: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        picked = w[e]
        return picked @ x.unsqueeze(-1), picked.sum()

    assert "inner value %index" in reasons(UNWEIGHED, twice, X, EXPERT, w=W)[0]


def test_other_targets() -> None:
    context = PassContext(Target("cuda"))
    assert reasons(UNWEIGHED, w_first, X, EXPERT, w=W, context=context)[0] == "it was not measured on cuda"


def test_no_gain() -> None:
    """So small that the calls for each expert cost more than the copies."""
    assert reasons(RULE, w_first, X, EXPERT, w=W)[0].startswith("no gain: predicted")


def test_what_it_records() -> None:
    after, (rewrite,) = apply(UNWEIGHED, traced(w_first, X, EXPERT, w=W))
    assert rewrite.rule == "fuse-expert-linears"
    assert len(rewrite.removed) == 3
    assert set(rewrite.made) == {n.name for n in after.calls()} - {rewrite.root} - {"squeeze_dim", "squeeze"}
