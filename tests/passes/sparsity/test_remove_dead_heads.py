"""Dead heads go, and the numbers stay those of eager."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import txgraph
from tests.helpers import FLOATS, normal, only_reason, rewritten
from tests.passes.sparsity.test_heads import MODELS, OUT, K, Q, V, X, masked, merged, model, plain, projected
from tests.small import apply, traced
from txgraph import PassContext
from txgraph.ir import Graph
from txgraph.passes.sparsity.remove_dead_heads import RemoveDeadHeads
from txgraph.passes.sparsity.rules import ATTENTION
from txgraph.rewrite import explain_pass

RULE = RemoveDeadHeads()
Tensor = torch.Tensor
ALL = {"q": Q, "k": K, "v": V, "out": OUT}


def heads(graph: Graph) -> int:
    """Of the only attention."""
    (attention,) = [n for n in graph.calls() if n.target in ATTENTION]
    return int(attention.meta["val"].shape[1])


def without(weight: Tensor, *heads: int, rows: bool = True) -> Tensor:
    """The weight with zeros for some of 4 heads: in its rows, or its columns."""
    result = weight.clone()
    for head in heads:
        (result if rows else result.t())[head * 6 : head * 6 + 6] = 0
    return result


def test_heads_that_are_not_read() -> None:
    graph = rewritten(RULE, plain, X, **{**ALL, "out": without(OUT, 1, 3, rows=False)})
    assert heads(graph) == 2
    assert {name: tuple(t.shape) for name, t in graph.constants.items()} == {
        "q_kept": (12, 8),
        "k_kept": (12, 8),
        "v_kept": (12, 8),
        "out_kept": (6, 12),
    }
    assert graph.constants["q_kept"].equal(torch.cat([Q[:6], Q[12:18]]))


def test_heads_without_values() -> None:
    assert heads(rewritten(RULE, plain, X, **{**ALL, "v": without(V, 0)})) == 3
    both = {**ALL, "v": without(V, 0), "out": without(OUT, 2, rows=False)}
    assert heads(rewritten(RULE, plain, X, **both)) == 2


def test_a_head_with_one_weight_lives() -> None:
    out = without(OUT, 1, rows=False)
    out[3, 8] = 1e-30
    graph, rewrites = apply(RULE, traced(plain, X, **{**ALL, "out": out, "q": without(Q, 0)}))
    assert (len(rewrites), heads(graph)) == (0, 4)


def test_a_bias_of_the_values_is_no_zero() -> None:
    def biased(x: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, b: Tensor) -> Tensor:
        query, key, _ = projected(x, q, k, v)
        value = F.linear(x, v, b).reshape(2, 5, 4, -1).transpose(1, 2)
        return merged(F.scaled_dot_product_attention(query, key, value), out)

    graph, rewrites = apply(RULE, traced(biased, X, **{**ALL, "v": without(V, 0)}, b=normal(24)))
    assert (len(rewrites), heads(graph)) == (0, 4)
    assert heads(rewritten(RULE, biased, X, **{**ALL, "v": without(V, 0)}, b=without(normal(24), 0))) == 3


def test_values_that_are_computed_further() -> None:
    def shifted(x: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor) -> Tensor:
        query, key, value = projected(x, q, k, v)
        return merged(F.scaled_dot_product_attention(query, key, value + 1), out)

    assert not apply(RULE, traced(shifted, X, **{**ALL, "v": without(V, 0)}))[1]


def test_masks_of_the_heads_go_with_them() -> None:
    held = {**ALL, "out": without(OUT, 1, rows=False), "mask": normal(4, 5, 5)}
    graph = rewritten(RULE, masked, X, **held)
    assert graph.constants["mask_kept"].equal(normal(4, 5, 5)[[0, 2, 3]])


def test_groups_go_as_a_whole() -> None:
    def grouped(x: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor) -> Tensor:
        return merged(F.scaled_dot_product_attention(*projected(x, q, k, v), enable_gqa=True), out)

    held = {**ALL, "k": K[:12], "v": V[:12]}
    assert not apply(RULE, traced(grouped, X, **{**held, "out": without(OUT, 0, 2, rows=False)}))[1]
    graph = rewritten(RULE, grouped, X, **{**held, "out": without(OUT, 2, 3, rows=False)})
    assert heads(graph) == 2
    assert graph.constants["k_kept"].equal(K[:6])


def test_one_head_stays() -> None:
    assert heads(rewritten(RULE, plain, X, **{**ALL, "out": torch.zeros_like(OUT)})) == 1


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_dtypes(dtype: torch.dtype) -> None:
    held = {name: tensor.to(dtype) for name, tensor in {**ALL, "out": without(OUT, 1, rows=False)}.items()}
    assert heads(rewritten(RULE, plain, X.to(dtype), **held)) == 3


def test_reasons() -> None:
    def shown(x: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor) -> tuple[Tensor, Tensor]:
        query, key, value = projected(x, q, k, v)
        return merged(F.scaled_dot_product_attention(query, key, value), out), value

    held = {**ALL, "out": without(OUT, 1, rows=False)}
    assert only_reason(RULE, traced(shown, X, **held)) == "%transpose_2 is an output of the graph"
    assert explain_pass(RULE, traced(shown, X, **ALL), PassContext()) == ([], [])


DEAD: dict[str, Callable[[Any], Tensor]] = {  # what to set to zero: of one head, or group
    "BERT": lambda m: m.encoder.layer[0].attention.output.dense.weight[:, 8:16],
    "BERT padded": lambda m: m.encoder.layer[0].attention.output.dense.weight[:, 8:16],
    "GPT-2": lambda m: m.h[0].attn.c_attn.weight[:, 64:72],
    "Llama": lambda m: m.layers[0].self_attn.o_proj.weight[:, 16:],
    "Phi-3": lambda m: m.layers[0].self_attn.qkv_proj.weight[48:56],
    "NeoX": lambda m: m.layers[0].attention.dense.weight[:, :8],
    "T5": lambda m: m.encoder.block[0].layer[0].SelfAttention.v.weight[24:],
    "TransformerEncoderLayer": lambda m: m.self_attn.out_proj.weight[:, 8:16],
}


@pytest.mark.parametrize("name", DEAD)
def test_models(name: str) -> None:
    made, inputs = MODELS[name][0]().eval(), MODELS[name][1]
    made.load_state_dict(model(name).state_dict())
    with torch.no_grad():
        DEAD[name](made).zero_()
        if name == "GPT-2":
            made.h[0].attn.c_attn.bias[64:72] = 0
    report = txgraph.optimize(made, kwargs=inputs, backend="reference").report.to_dict()
    (record,) = [p for p in report["passes"] if p["name"] == RULE.name]
    assert (record["status"], record["rewrites"]) == ("applied", 1)
    assert all(stage["passed"] for stage in report["verification"])
