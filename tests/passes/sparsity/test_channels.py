"""Hidden channels are found in every form of a feed-forward block, and can be taken out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.export import Dim

from tests.helpers import normal
from tests.passes.sparsity.silenced import assert_kept
from tests.small import MLP, graph_of, traced
from txgraph.ir import Mutation, interpret
from txgraph.passes.sparsity.channels import channels_before, hidden_channels, keep_channels
from txgraph.rewrite import Reject

Tensor = torch.Tensor
X = normal(2, 3, 8)
W1, B1, W2, B2 = normal(12, 8), normal(12), normal(5, 12), normal(5)
WIDE, WIDE_BIAS, ROW = normal(24, 8), normal(24), normal(12) + 2
aten, tx = torch.ops.aten, torch.ops.txgraph


def plain(x: Tensor, w: Tensor, b: Tensor, v: Tensor, c: Tensor) -> Tensor:
    return F.linear(F.gelu(F.linear(x, w, b)), v, c)


def without_bias(x: Tensor, w: Tensor, v: Tensor) -> Tensor:
    return F.linear(F.relu(F.linear(x, w)), v)


def transposed(x: Tensor, w: Tensor, b: Tensor, v: Tensor) -> Tensor:
    return F.linear(F.gelu(F.linear(x, w.transpose(0, 1), b)), v.transpose(0, 1))


def gate(x: Tensor, w: Tensor, u: Tensor, v: Tensor) -> Tensor:
    return F.linear(F.silu(F.linear(x, w)) * F.linear(x, u), v)


def halves(x: Tensor, w: Tensor, b: Tensor, v: Tensor) -> Tensor:
    a, g = aten.split.Tensor(F.linear(x, w, b), 12, -1)
    return F.linear(a * F.gelu(g), v)


def chunks(x: Tensor, w: Tensor, b: Tensor, v: Tensor) -> Tensor:
    a, g = aten.chunk(F.linear(x, w, b), 2, -1)
    return F.linear(a * F.gelu(g), v)


def slices(x: Tensor, w: Tensor, b: Tensor, v: Tensor) -> Tensor:
    y = F.linear(x, w, b)
    return F.linear(y[..., :12] * torch.sigmoid(y[..., 12:]), v)


def piece(x: Tensor, w: Tensor, b: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Only a piece of the linear is hidden."""
    a, other = aten.split_with_sizes.default(F.linear(x, w, b), [12, 12], -1)
    return F.linear(torch.tanh(a), v), other


def constants(x: Tensor, w: Tensor, b: Tensor, r: Tensor, v: Tensor) -> Tensor:
    return F.linear(F.relu(F.linear(x, w, b) * r + 0.5) / (r + 3.0), v)


def through_views(x: Tensor, w: Tensor, b: Tensor, v: Tensor) -> Tensor:
    y = F.linear(x, w, b).reshape(6, 12).transpose(0, 1)
    return F.linear(torch.relu(y).transpose(0, 1).unsqueeze(0), v)


def cast(x: Tensor, w: Tensor, b: Tensor, v: Tensor) -> Tensor:
    return F.linear(aten._to_copy(aten._to_copy(F.linear(x, w, b), dtype=torch.float64).tanh(), dtype=torch.float32), v)


def two_readers(x: Tensor, w: Tensor, b: Tensor, v: Tensor, u: Tensor) -> Tensor:
    h = F.gelu(F.linear(x, w, b))
    return F.linear(h, v) + F.linear(torch.tanh(h), u)


def with_activation(x: Tensor, w: Tensor, b: Tensor, v: Tensor) -> Tensor:
    return tx.linear_activation(tx.linear_activation(x, w, b, "gelu"), v, None, "relu")


def joint_gate(x: Tensor, w: Tensor, u: Tensor, v: Tensor) -> Tensor:
    a, b = tx.linears(x, [w, u], [None, None])
    return F.linear(F.silu(a) * b, v)


def read_together(x: Tensor, w: Tensor, b: Tensor, v: Tensor, u: Tensor) -> tuple[Tensor, ...]:
    return tuple(tx.linears(F.relu(F.linear(x, w, b)), [v, u], [None, None]))


def beside_another(x: Tensor, w: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    a, other = tx.linears(x, [w, u], [None, None])
    return F.linear(F.silu(a), v), other


def joined(x: Tensor, w: Tensor, u: Tensor, v: Tensor) -> Tensor:
    return F.linear(torch.cat([F.relu(F.linear(x, w)), F.linear(x, u)], -1), v)


FORMS: dict[str, tuple[Callable[..., Any], tuple[Tensor, ...]]] = {
    "plain": (plain, (W1, B1, W2, B2)),
    "without bias": (without_bias, (W1, W2)),
    "weights by columns": (transposed, (W1.t().contiguous(), B1, W2.t().contiguous())),
    "gate": (gate, (W1, W1 + 1, W2)),
    "gate in halves": (halves, (WIDE, WIDE_BIAS, W2)),
    "gate in chunks": (chunks, (WIDE, WIDE_BIAS, W2)),
    "gate in slices": (slices, (WIDE, WIDE_BIAS, W2)),
    "a piece": (piece, (WIDE, WIDE_BIAS, W2)),
    "constants": (constants, (W1, B1, ROW, W2)),
    "views": (through_views, (W1, B1, W2)),
    "casts": (cast, (W1, B1, W2)),
    "two readers": (two_readers, (W1, B1, W2, W2 - 1)),
    "fused activations": (with_activation, (W1, B1, W2)),
    "joint gate": (joint_gate, (W1, W1 + 1, W2)),
    "joint readers": (read_together, (W1, B1, W2, W2 - 1)),
    "beside another": (beside_another, (W1, W1 + 1, W2)),
    "concatenated": (joined, (W1, W1 + 1, normal(5, 24))),
}


@pytest.mark.parametrize("form", FORMS)
def test_forms(form: str) -> None:
    function, weights = FORMS[form]
    names = list(function.__annotations__)[1:]
    graph = traced(function, X, **dict(zip(names, weights, strict=False)))
    assert_kept(graph, [X], blocks=1)


def test_what_is_said_of_a_block() -> None:
    graph = graph_of(MLP(), normal(3, 4))
    (block,) = hidden_channels(graph)
    assert (block.before, block.after, block.hidden, block.width) == (("linear",), ("linear_1",), "gelu", 8)
    assert (block.module, block.dtype) == ("down", torch.float32)
    assert block.location == "small.py:61"


def test_smaller_constants_remember_what_they_are_made_from() -> None:
    graph = traced(plain, X, w=W1, b=B1, v=W2, c=B2)
    (block,) = hidden_channels(graph)
    keep_channels(graph, block, torch.tensor([3, 1]), "test")
    graph.eliminate_dead_code()
    assert {name: tuple(t.shape) for name, t in graph.constants.items()} == {
        "w_kept": (2, 8),
        "b_kept": (2,),
        "v_kept": (5, 2),
        "c": (5,),
    }
    assert graph.constants["v_kept"].equal(W2[:, [1, 3]])
    assert graph.constants.frozen_values() == {"w", "b", "v"}


def test_constants_go_into_the_bias() -> None:
    graph = traced(without_bias, X, w=W1, v=W2)
    (block,) = hidden_channels(graph)
    means = torch.linspace(1, 2, 12, dtype=torch.float64)
    record = keep_channels(graph, block, torch.arange(10), "test", constants={block.hidden: means}, exact=False)
    assert record.values == ()
    hidden = torch.relu(X @ W1.t())
    hidden[..., 10:] = means[10:].float()
    (result,) = interpret(graph, [X])
    torch.testing.assert_close(result, hidden @ W2.t())


def test_new_weights_of_the_reader() -> None:
    graph, new = traced(without_bias, X, w=W1, v=W2), normal(5, 3)
    (block,) = hidden_channels(graph)
    keep_channels(graph, block, torch.tensor([0, 5, 7]), "test", weights={"v": new}, exact=False)
    (result,) = interpret(graph, [X])
    torch.testing.assert_close(result, torch.relu(X @ W1[[0, 5, 7]].t()) @ new.t())


def test_sizes_that_vary() -> None:
    sizes = ({0: Dim("B"), 1: Dim("S")},)
    graph = graph_of(MLP(), normal(2, 3, 4), 1.0, dynamic_shapes=(*sizes, None))
    for rows in (2, 5):
        assert_kept(graph, [normal(rows, 3, 4)], blocks=1)


def residual(x: Tensor, w: Tensor, v: Tensor, u: Tensor) -> Tensor:
    """Channels of a stream that no norm mixes are hidden, too."""
    h = F.linear(x, w)
    return F.linear(h + F.linear(torch.relu(h), v), u)


def test_a_linear_between_channels_of_one_kind() -> None:
    graph = traced(residual, X, w=W1, v=normal(12, 12), u=W2)
    assert_kept(graph, [X], blocks=1)


def reason(function: Callable[..., Any], *inputs: Tensor, **constants: Tensor) -> str:
    """Why the channels that the last linear reads stay."""
    graph = traced(function, *inputs, **constants)
    last = [n for n in graph.calls() if n.target is aten.linear.default][-1]
    verdict = channels_before(graph, last)
    assert isinstance(verdict, Reject)
    assert last.name not in [name for block in hidden_channels(graph) for name in block.after]
    return verdict.reason


def test_declines_a_hidden_value_used_elsewhere() -> None:
    def output(x: Tensor, w: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        h = F.relu(F.linear(x, w))
        return h, F.linear(h, v)

    def summed(x: Tensor, w: Tensor, v: Tensor) -> Tensor:
        h = F.relu(F.linear(x, w))
        return F.linear(h, v) + h.cumsum(-1).sum()

    assert reason(output, X, w=W1, v=W2) == "%relu is an output of the graph"
    assert reason(summed, X, w=W1, v=W2) == "cumsum is not known to keep units apart"


def test_declines_what_mixes_channels() -> None:
    def norm(x: Tensor, w: Tensor, v: Tensor) -> Tensor:
        return F.linear(F.layer_norm(F.linear(x, w), [12]), v)

    def softmax(x: Tensor, w: Tensor, v: Tensor) -> Tensor:
        return F.linear(torch.softmax(F.linear(x, w), -1), v)

    def swapped(x: Tensor, w: Tensor, v: Tensor) -> Tensor:
        h = F.linear(x, w)
        return F.linear(h + torch.cat([h[..., 6:], h[..., :6]], -1), v)

    assert reason(norm, X, w=W1, v=W2) == "layer_norm mixes the units"
    assert reason(softmax, X, w=W1, v=W2) == "softmax mixes the units"
    assert "joins a unit with another" in reason(swapped, X, w=W1, v=W2)


def test_declines_channels_that_no_linear_makes() -> None:
    assert reason(lambda x, v: F.linear(x, v), X, v=normal(5, 8)) == "%x is an input of the graph"
    with_input = lambda x, h, w, v: F.linear(F.linear(x, w) * h, v)  # noqa: E731
    assert reason(with_input, X, normal(2, 3, 12), w=W1, v=W2) == "%h is an input of the graph"
    made = lambda x, w, v: F.linear(F.linear(x, w) + torch.ones(12), v)  # noqa: E731
    assert reason(made, X, w=W1, v=W2) == "ones makes the units of nothing"


def test_declines_weights_that_are_computed_shared_or_written() -> None:
    assert reason(without_bias, X, W1, v=W2) == "%w is not a constant"
    tied = lambda x, w, v: (F.linear(F.relu(F.linear(x, w)), v), w.sum())[0] + w.sum()  # noqa: E731
    assert reason(tied, X, w=W1, v=W2) == "w is also used by %sum_2"
    view = lambda x, w, v: F.linear(F.relu(F.linear(x, w.transpose(0, 1))), v) + w.transpose(0, 1).exp().sum()  # noqa: E731
    assert "w is also used by" in reason(view, X, w=W1.t().contiguous(), v=W2)
    graph = traced(without_bias, X, w=W1, v=W2)
    graph.mutations = (Mutation("buffer", "w"),)
    verdict = channels_before(graph, [n for n in graph.calls() if n.target is aten.linear.default][-1])
    assert isinstance(verdict, Reject)
    assert verdict.reason == "w is changed by each call"


def test_declines_a_size_that_depends_on_the_channels() -> None:
    def counted(x: Tensor, w: Tensor, v: Tensor) -> Tensor:
        h = F.linear(x, w)
        return F.linear(h.reshape(2, 3, 3, 4).transpose(2, 3).reshape(2, 3, 12), v)

    assert "divides the units among axes" in reason(counted, X, w=W1, v=W2)


def test_a_block_is_found_once() -> None:
    graph = traced(two_readers, X, w=W1, b=B1, v=W2, u=W2 - 1)
    (block,) = hidden_channels(graph)
    assert len(block.after) == 2
