"""Dead channels go, whatever made them dead, and the numbers stay those of eager."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import txgraph
from tests.helpers import FLOATS, normal, only_reason, rewritten
from tests.passes.sparsity.test_heads import MODELS, model
from tests.small import apply, traced
from txgraph import PassContext
from txgraph.ir import Graph, arguments, check_spec
from txgraph.passes.sparsity.remove_dead_channels import RemoveDeadChannels
from txgraph.rewrite import explain_pass

RULE = RemoveDeadChannels()
Tensor = torch.Tensor
X = normal(2, 3, 8)
tx = torch.ops.txgraph


def mlp(x: Tensor, w: Tensor, b: Tensor, v: Tensor, c: Tensor) -> Tensor:
    return F.linear(F.gelu(F.linear(x, w, b)), v, c)


def weights(dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Channels 0 and 1 are not read, 2 and 3 are constants, of the 12."""
    w, b, v, c = normal(12, 8, dtype=dtype), normal(12, dtype=dtype), normal(5, 12, dtype=dtype), normal(5, dtype=dtype)
    v[:, :2], w[2:4] = 0, 0
    return {"w": w, "b": b, "v": v, "c": c}


def width(graph: Graph) -> int:
    """How many columns the last linear reads."""
    last = [n for n in graph.calls() if n.target is torch.ops.aten.linear.default][-1]
    return int(arguments(last)["input"].meta["val"].shape[-1])


def test_both_kinds() -> None:
    held = weights()
    graph = rewritten(RULE, mlp, X, **held)
    assert width(graph) == 8
    assert sorted(graph.constants) == ["b_kept", "c_shifted", "v_kept", "w_kept"]
    shift = held["v"][:, 2:4].double() @ F.gelu(held["b"][2:4].double())
    assert graph.constants["c_shifted"].equal((held["c"].double() + shift).float())
    assert graph.constants.frozen_values() == {"w", "b", "v", "c"}


def test_channels_that_are_not_read_leave_the_bias_alone() -> None:
    held = weights()
    held["w"] = normal(12, 8)
    graph = rewritten(RULE, mlp, X, **held)
    assert (width(graph), "c" in graph.constants) == (10, True)
    held["v"][0, 0] = 1e-30
    assert width(rewritten(RULE, mlp, X, **held)) == 11


def test_without_bias_one_is_made() -> None:
    function = lambda x, w, b, v: F.linear(torch.sigmoid(F.linear(x, w, b)), v)  # noqa: E731
    graph = rewritten(RULE, function, X, **{name: weights()[name] for name in "wbv"})
    assert width(graph) == 8
    assert "v_shifted" in graph.constants


def gated(x: Tensor, w: Tensor, u: Tensor, v: Tensor) -> Tensor:
    return F.linear(F.silu(F.linear(x, w)) * F.linear(x, u), v)


def test_gates() -> None:
    """A zero row of either half makes the product zero, whatever the other is."""
    w, u, v = normal(12, 8), normal(12, 8) + 1, normal(5, 12)
    w[3], u[4:6], v[:, 7] = 0, 0, 0
    graph = rewritten(RULE, gated, X, w=w, u=u, v=v)
    assert width(graph) == 8
    assert sorted(graph.constants) == ["u_kept", "v_kept", "w_kept"]


def test_a_bias_of_the_gate_is_no_zero() -> None:
    def biased(x: Tensor, w: Tensor, b: Tensor, u: Tensor, v: Tensor) -> Tensor:
        return F.linear(F.silu(F.linear(x, w, b)) * F.linear(x, u), v)

    w, u, v = normal(12, 8), normal(12, 8) + 1, normal(5, 12)
    w[3:6] = 0
    graph, rewrites = apply(RULE, traced(biased, X, w=w, b=normal(12), u=u, v=v))
    assert (len(rewrites), width(graph)) == (0, 12)


def test_constants_between() -> None:
    """Zeros of a scale are dead, too; what stays of a constant is computed with all that follows."""

    def function(x: Tensor, w: Tensor, b: Tensor, r: Tensor, v: Tensor) -> Tensor:
        return F.linear(torch.tanh(F.linear(x, w, b) * r) + 0.5, v)

    w, r, v = normal(12, 8), normal(12) + 3, normal(5, 12)
    w[0], r[1], v[:, 2] = 0, 0, 0
    graph = rewritten(RULE, function, X, w=w, b=normal(12), r=r, v=v)
    assert width(graph) == 9
    assert {"r", "w", "b", "v"} <= graph.constants.frozen_values()


def test_several_readers() -> None:
    def function(x: Tensor, w: Tensor, b: Tensor, v: Tensor, u: Tensor) -> Tensor:
        h = F.gelu(F.linear(x, w, b))
        return F.linear(h, v) + F.linear(torch.tanh(h), u)

    held = weights()
    u = normal(5, 12) - 1
    u[:, 1:2] = 0  # channel 0 is read here
    graph = rewritten(RULE, function, X, w=held["w"], b=held["b"], v=held["v"], u=u)
    assert width(graph) == 9
    assert {"v_shifted", "u_shifted"} <= set(graph.constants)


def test_what_was_only_for_dead_channels_dies_with_them() -> None:
    def function(x: Tensor, w: Tensor, b: Tensor, v: Tensor, c: Tensor, u: Tensor) -> Tensor:
        return F.linear(torch.relu(F.linear(F.gelu(F.linear(x, w, b)), v, c)), u)

    w, b, v, c, u = normal(12, 8), normal(12), normal(10, 12), normal(10), normal(4, 10)
    u[:, :5] = 0
    v[5:, 6:] = 0  # columns 6 and more are read by rows that nobody reads
    graph = rewritten(RULE, function, X, w=w, b=b, v=v, c=c, u=u)
    assert [tuple(n.meta["val"].shape[-1:]) for n in graph.calls()] == [(6,), (6,), (5,), (5,), (4,)]


def test_one_channel_stays() -> None:
    held = weights()
    held["v"] = torch.zeros_like(held["v"])
    assert width(rewritten(RULE, mlp, X, **held)) == 1
    x = X.clone()
    x[0, 0, 0] = torch.nan
    rewritten(RULE, mlp, x, **held)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_dtypes(dtype: torch.dtype) -> None:
    """In 16 bits no share is rounded into a bias: those channels stay, unless they are zero."""
    x, held = X.to(dtype), weights(dtype)
    assert width(rewritten(RULE, mlp, x, **held)) == (10 if dtype.itemsize == 2 else 8)
    held["b"][2:4] = 0
    assert width(rewritten(RULE, mlp, x, **held)) == 8


def test_values_that_overflow_are_not_constants() -> None:
    held = weights()
    held["b"][2] = 1e30
    graph = rewritten(RULE, lambda x, w, b, v, c: F.linear(F.linear(x, w, b).square(), v, c), X, **held)
    assert width(graph) == 9


def test_joint_and_fused_forms() -> None:
    held = weights()
    with_activation = lambda x, w, b, v, c: F.linear(tx.linear_activation(x, w, b, "gelu"), v, c)  # noqa: E731
    assert width(rewritten(RULE, with_activation, X, **held)) == 8

    def joint(x: Tensor, w: Tensor, u: Tensor, v: Tensor) -> Tensor:
        a, b = tx.linears(x, [w, u], [None, None])
        return F.linear(F.silu(a) * b, v)

    assert width(rewritten(RULE, joint, X, w=held["w"], u=normal(12, 8) + 1, v=held["v"])) == 8


def test_reasons() -> None:
    held = weights()
    used = lambda x, w, b, v, c: (mlp(x, w, b, v, c), w.sum())  # noqa: E731
    assert only_reason(RULE, traced(used, X, **held)) == "w is also used by %sum_1"
    hidden = lambda x, w, b, v, c: (h := F.gelu(F.linear(x, w, b)), F.linear(h, v, c))  # noqa: E731
    assert only_reason(RULE, traced(hidden, X, **held)) == "%gelu is an output of the graph"
    few = weights() | {"w": normal(12, 8)}
    rule = RemoveDeadChannels(least_share=0.25)
    assert only_reason(rule, traced(mlp, X, **few)) == "only 2 of 12 channels are dead"
    half = {name: tensor.bfloat16() for name, tensor in weights().items()}
    half["v"] = normal(5, 12, dtype=torch.bfloat16)
    assert "rounded to torch.bfloat16" in only_reason(RULE, traced(mlp, X.bfloat16(), **half))


def test_living_channels_are_no_near_miss() -> None:
    graph = traced(mlp, X, w=normal(12, 8), b=normal(12), v=normal(5, 12), c=normal(5))
    assert explain_pass(RULE, graph, PassContext()) == ([], [])


def _kill(up: nn.Linear, down: nn.Linear, by_columns: bool) -> int:
    """Make 30 % of the channels dead, in two ways; returns how many live."""
    w, v = (layer.weight.t() if by_columns else layer.weight for layer in (up, down))
    order = torch.randperm(len(w), generator=torch.Generator().manual_seed(0))
    dead = order[: len(w) * 3 // 10]
    with torch.no_grad():
        v[:, dead[::2]] = 0
        w[dead[1::2]] = 0
    return len(w) - len(dead)


FEED_FORWARD: dict[str, Callable[[Any], tuple[nn.Linear, nn.Linear]]] = {
    "BERT": lambda m: (m.encoder.layer[0].intermediate.dense, m.encoder.layer[0].output.dense),
    "GPT-2": lambda m: (m.h[0].mlp.c_fc, m.h[0].mlp.c_proj),
    "Llama": lambda m: (m.layers[0].mlp.gate_proj, m.layers[0].mlp.down_proj),
    "TransformerEncoderLayer": lambda m: (m.linear1, m.linear2),
}


@pytest.mark.parametrize("name", FEED_FORWARD)
def test_models(name: str) -> None:
    made, inputs = MODELS[name][0]().eval(), MODELS[name][1]
    made.load_state_dict(model(name).state_dict())
    living = _kill(*FEED_FORWARD[name](made), by_columns=name == "GPT-2")
    fast = txgraph.optimize(made, kwargs=inputs, backend="reference")
    report = fast.report.to_dict()
    (record,) = [p for p in report["passes"] if p["name"] == RULE.name]
    assert (record["status"], record["rewrites"]) == ("applied", 1)
    assert all(stage["passed"] for stage in report["verification"])
    sizes = [n.meta["val"].shape[-1] for n in fast.graph_after.calls() if isinstance(n.meta["val"], torch.Tensor)]
    assert living in sizes
    check_spec(fast.graph_after)
    with torch.no_grad():  # a channel that lives again is seen
        FEED_FORWARD[name](made)[1].weight.add_(0.1)
    fast(**inputs)
    assert "was changed in place" in fast.report.notes[-1]
