"""What stands in the place of a block that loses units: the nodes, their numbers, and the ways to take it back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tests.helpers import normal
from tests.small import traced
from txgraph import PassContext
from txgraph.ir import Graph, check_spec, interpret
from txgraph.passes import RemoveDeadChannels
from txgraph.passes.sparsity.flow import UnitFlow, find_units
from txgraph.passes.sparsity.heads import attention_heads
from txgraph.passes.sparsity.take_out import Smaller, share_of, weight_at, without_units
from txgraph.passes.sparsity.units import NO_UNIT, Units

Tensor = torch.Tensor
X = normal(2, 3, 8)
W, B, V, C = normal(6, 8), normal(6), normal(5, 6), normal(5)
KEPT = torch.tensor([True, False, True, True, False, True])
STAYS = KEPT.nonzero().flatten()
aten, tx = torch.ops.aten, torch.ops.txgraph


def feed_forward(x: Tensor, w: Tensor, b: Tensor, v: Tensor, c: Tensor) -> Tensor:
    return F.linear(F.relu(F.linear(x, w, b)), v, c) * 2


def flow_of(graph: Graph, width: int = 6) -> UnitFlow:
    """The channels that the last linear reads."""
    reader = [n for n in graph.calls() if n.target is aten.linear.default][-1]
    hidden: Any = reader.args[0]
    flow = find_units(graph, width, {hidden: Units(hidden.meta["val"].ndim - 1, torch.arange(width))})
    assert isinstance(flow, UnitFlow), flow
    return flow


def block(**options: Any) -> tuple[Graph, Smaller]:
    graph = traced(feed_forward, X, w=W, b=B, v=V, c=C)
    return graph, without_units(graph, flow_of(graph), KEPT, "test", **options)


def test_the_new_stands_beside_the_old_until_it_is_applied() -> None:
    graph, smaller = block()
    wanted = feed_forward(X, W[STAYS], B[STAYS], V[:, STAYS], C)
    torch.testing.assert_close(interpret(graph, [X])[0], feed_forward(X, W, B, V, C))
    assert smaller.root.name == "linear_1"
    assert [n.name for n in smaller.values] == ["linear_1"]  # nobody else reads what is hidden
    assert [n.name for n in smaller.inner] == ["relu", "linear"]  # each before what it uses
    record = smaller.apply("test")
    graph.eliminate_dead_code()
    check_spec(graph)
    assert graph.count() == {"linear": 2, "mul": 1, "relu": 1}
    torch.testing.assert_close(interpret(graph, [X])[0], wanted)
    assert record.removed == ("linear_1", "relu", "linear")
    assert set(record.made) == {n.name for n in smaller.made}
    assert [old for old, _ in record.values] == ["linear_1"]


def test_a_rewrite_is_known_by_what_reads_the_units() -> None:
    """Also where another value that is made anew stands before it."""

    def beside(x: Tensor, w: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        other, hidden = tx.linears(x, [u, w], [None, None])
        return other, F.linear(torch.relu(hidden), v)

    graph = traced(beside, X, w=W, u=normal(3, 8), v=V)
    smaller = without_units(graph, flow_of(graph), KEPT, "test")
    assert [n.name for n in smaller.values] == ["linear", "getitem"]
    assert smaller.root.name == "linear"
    smaller.apply("test")
    graph.eliminate_dead_code()
    for ours, expected in zip(interpret(graph, [X]), beside(X, W, normal(3, 8), V * KEPT), strict=True):
        torch.testing.assert_close(ours, expected)


def test_what_is_not_exact_claims_no_equal_values() -> None:
    _, smaller = block()
    assert smaller.apply("test", exact=False).values == ()


def test_it_is_discarded_without_a_trace() -> None:
    graph, smaller = block()
    smaller.discard()
    graph.eliminate_dead_code()
    assert str(graph) == str(traced(feed_forward, X, w=W, b=B, v=V, c=C))
    assert set(graph.constants) == {"w", "b", "v", "c"}


def test_what_is_predicted_to_be_saved_leaves_views_out() -> None:
    def viewed(x: Tensor, w: Tensor, v: Tensor) -> Tensor:
        return F.linear(F.linear(x, w).reshape(6, 6).transpose(0, 1).transpose(0, 1), v)

    counted: list[list[str]] = []

    class Counts:
        def seconds(self, nodes: Any) -> float:
            counted.append([n.name for n in nodes if n.op == "call_function"])
            return float(len(counted[-1]))

    graph = traced(viewed, X, w=W, v=V)
    smaller = without_units(graph, flow_of(graph), KEPT, "test")
    assert smaller.seconds_saved(Counts()) == 0  # type: ignore[arg-type]  # two linears before, two after
    assert sorted(counted[0]) == ["linear", "linear_1"]
    assert len(counted[1]) == 2
    assert block()[1].seconds_saved(PassContext().cost) > 0  # fewer numbers to multiply


@pytest.mark.parametrize("reason", ["", "no gain", "somebody said so"])
def test_whether_it_is_wanted(reason: str) -> None:
    graph, smaller = block()
    rule, misses = RemoveDeadChannels(), []  # type: ignore[var-annotated]  # of near misses

    class Free:
        hardware = PassContext().cost.hardware

        def seconds(self, nodes: Any) -> float:
            return 0.0

    vetoes = {(rule.name, "linear_1"): reason} if reason == "somebody said so" else {}
    free: dict[str, Any] = {"cost": Free()} if reason == "no gain" else {}
    context = PassContext(vetoes=vetoes, near_misses=misses, **free)
    assert smaller.is_wanted(rule, context) is (reason == "")
    if reason:
        (miss,) = misses
        assert miss.root == "linear_1"
        assert reason in miss.reason
        assert graph.count() == traced(feed_forward, X, w=W, b=B, v=V, c=C).count()
    else:
        assert not misses
        assert len(graph.calls()) == 4 + 3  # still beside the old


def test_nothing_is_weighed_where_rewrites_are_measured() -> None:
    class Never:
        def seconds(self, nodes: Any) -> float:
            raise AssertionError("asked for a prediction")

    never: Any = Never()
    assert block()[1].is_wanted(RemoveDeadChannels(), PassContext(cost=never, weighs=False))


# -- the numbers ---------------------------------------------------------------------------------------------------


def test_the_share_of_what_goes() -> None:
    weight, taken = normal(4, 6), torch.arange(1.0, 7, dtype=torch.float64)
    units = Units(1, torch.tensor([1, 0, NO_UNIT]))  # twice along the axis
    share = share_of(weight, units, torch.tensor([True, False]), taken)
    assert share.dtype is torch.float64
    torch.testing.assert_close(share, weight[:, [0, 3]].double() @ torch.tensor([1.0, 4.0], dtype=torch.float64))


def test_the_share_goes_into_a_bias_whose_own_rows_go_too() -> None:
    """A linear that reads the channels and makes them: of its bias, and of the share, the same rows stay."""

    def between(x: Tensor, w: Tensor, v: Tensor, c: Tensor, u: Tensor) -> Tensor:
        h = F.linear(x, w)
        return F.linear(h + F.linear(torch.relu(h), v, c), u)

    square, bias, last = normal(6, 6), normal(6) + 1, normal(5, 6) - 1
    graph = traced(between, X, w=W, v=square, c=bias, u=last)
    flow = flow_of(graph)
    taken = torch.linspace(1, 2, 6, dtype=torch.float64)
    smaller = without_units(graph, flow, KEPT, "test", constants={"relu": taken})
    smaller.apply("test", exact=False)
    graph.eliminate_dead_code()
    check_spec(graph)
    hidden = X @ W[STAYS].t()
    shifted = bias[STAYS] + square[STAYS][:, ~KEPT] @ taken[~KEPT].float()
    inner = torch.relu(hidden) @ square[STAYS][:, STAYS].t() + shifted
    torch.testing.assert_close(interpret(graph, [X])[0], (hidden + inner) @ last[:, STAYS].t())


def test_a_share_of_nothing_makes_no_bias() -> None:
    graph, smaller = block(constants={"relu": torch.zeros(6, dtype=torch.float64)})
    smaller.apply("test")
    graph.eliminate_dead_code()
    assert set(graph.constants) == {"w_kept", "b_kept", "v_kept", "c"}


def test_new_weights_take_the_place_of_those_of_the_reader() -> None:
    new = normal(5, 4)
    graph, smaller = block(weights={"v": new})
    smaller.apply("test", exact=False)
    graph.eliminate_dead_code()
    torch.testing.assert_close(interpret(graph, [X])[0], feed_forward(X, W[STAYS], B[STAYS], new, C))


# -- operators between ---------------------------------------------------------------------------------------------


def reshaped(x: Tensor, w: Tensor, v: Tensor) -> Tensor:
    return F.linear(torch.relu(F.linear(x, w).reshape(6, 6)).reshape(2, 3, 6), v)


def reshaped_by_what_is_left(x: Tensor, w: Tensor, v: Tensor) -> Tensor:
    return F.linear(F.linear(x, w).reshape(6, -1).relu(), v)


def expanded(x: Tensor, w: Tensor, v: Tensor) -> Tensor:
    return F.linear(F.linear(x, w).unsqueeze(0).expand(2, 2, 3, 6).relu(), v)


def sliced(x: Tensor, w: Tensor, v: Tensor) -> Tensor:
    h = F.linear(x, w)
    return F.linear(torch.cat([h[..., :2].relu(), aten.narrow.default(h, 2, 2, 4).tanh()], -1), v)


def sliced_along_another_axis(x: Tensor, w: Tensor, v: Tensor) -> Tensor:
    return F.linear(F.linear(x, w)[:, 1:].relu(), v)


def in_pieces(x: Tensor, w: Tensor, v: Tensor) -> Tensor:
    first, second = aten.split_with_sizes.default(F.linear(x, w), [4, 2], -1)
    return F.linear(torch.cat([first.relu(), second], -1), v)


def in_pieces_along_another_axis(x: Tensor, w: Tensor, v: Tensor) -> Tensor:
    first, second = aten.split_with_sizes.default(F.linear(x, w), [1, 2], 1)
    return F.linear(torch.cat([second.relu(), first], 1), v)


BETWEEN: tuple[Callable[..., Tensor], ...] = (
    reshaped,
    reshaped_by_what_is_left,
    expanded,
    sliced,
    sliced_along_another_axis,
    in_pieces,
    in_pieces_along_another_axis,
)


@pytest.mark.parametrize("function", BETWEEN)
def test_sizes_and_places_of_what_stands_between(function: Callable[..., Tensor]) -> None:
    """As with zeros in the columns of those that go."""
    graph = traced(function, X, w=W, v=V)
    without_units(graph, flow_of(graph), KEPT, "test").apply("test")
    graph.eliminate_dead_code()
    check_spec(graph)
    assert graph.constants["w_kept"].equal(W[STAYS])
    assert graph.constants["v_kept"].equal(V[:, STAYS])
    torch.testing.assert_close(interpret(graph, [X])[0], function(X, W, V * KEPT))


@pytest.mark.parametrize("kind", ["constant", "computed", "of one head"])
def test_masks_of_heads_go_with_them(kind: str) -> None:
    def attend(x: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, mask: Tensor) -> Tensor:
        heads = [F.linear(x, w).reshape(2, 3, 4, 2).transpose(1, 2) for w in (q, k, v)]
        joined = F.scaled_dot_product_attention(*heads, mask.exp() if kind == "computed" else mask)
        return F.linear(joined.transpose(1, 2).reshape(2, 3, 8), out)

    q, k, v, out = normal(8, 8), normal(8, 8) + 0.1, normal(8, 8) - 0.1, normal(5, 8)
    mask = normal(1 if kind == "of one head" else 4, 3, 3)
    graph = traced(attend, X, q=q, k=k, v=v, out=out, mask=mask)
    (heads,) = attention_heads(graph)
    kept = torch.tensor([False, True, False, True])
    without_units(graph, heads.flow, kept, "test").apply("test")
    graph.eliminate_dead_code()
    check_spec(graph)
    assert ("mask_kept" in graph.constants) is (kind == "constant")
    assert ("kept_heads" in graph.constants) is (kind == "computed")
    wanted = attend(X, q, k, v, out * kept.repeat_interleave(2), mask)
    torch.testing.assert_close(interpret(graph, [X])[0], wanted)


def test_which_weight_a_result_was_computed_with() -> None:
    def joint(x: Tensor, w: Tensor, u: Tensor, v: Tensor) -> Tensor:
        a, b = tx.linears(x, [w, u], [None, None])
        return F.linear(a * b, v)

    graph = traced(joint, X, w=W, u=W + 1, v=V)
    named = {n.name: n for n in graph.calls()}
    assert [weight_at(named[name]) for name in ("getitem", "getitem_1", "linear")] == [0, 1, 0]
    without_units(graph, flow_of(graph), KEPT, "test").apply("test")
    graph.eliminate_dead_code()
    assert graph.constants["u_kept"].equal(W[STAYS] + 1)
    torch.testing.assert_close(interpret(graph, [X])[0], joint(X, W, W + 1, V * KEPT))
