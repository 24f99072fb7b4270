"""Every built-in rule with a pattern, on graphs that are made for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from txgraph import CheckFailed, RewritePass, default_pipeline
from txgraph.check import check

Tensor = torch.Tensor
aten = torch.ops.aten
RULES = {each.name: each for each in default_pipeline() if isinstance(each, RewritePass)}


def attention(scale: float) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    return lambda q, k, v: aten.matmul(aten.softmax.int(aten.matmul(q, aten.transpose.int(k, -2, -1)) * scale, -1), v)


def masked(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    scores = aten.matmul(q, aten.transpose.int(k, -2, -1)) / 2.0
    return aten.matmul(aten.softmax.int(aten.masked_fill.Scalar(scores, mask, -float("inf")), -1), v)


def biased(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    scores = aten.matmul(q * 0.5, aten.transpose.int(k, -2, -1))
    return aten.matmul(aten.softmax.int(scores + bias, -1), v)


def capped(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = torch.tanh(aten.matmul(q, aten.transpose.int(k, -2, -1)) / 5.0) * 5.0
    return aten.matmul(aten.softmax.int(scores, -1), v)


def heads(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.cat([F.scaled_dot_product_attention(q, k, v), F.scaled_dot_product_attention(k, q, v)], -1)


def grouped(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    times = q.shape[1] // k.shape[1]
    return F.scaled_dot_product_attention(q, *(aten.repeat_interleave.self_int(x, times, 1) for x in (k, v)))


def experts(x: Tensor, w: Tensor, i: Tensor) -> Tensor:
    return aten.matmul(aten.index.Tensor(w, [i]), aten.unsqueeze.default(x, -1))


def lora(x: Tensor, w: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return F.linear(x, w) + F.linear(F.linear(x, a), b) * 0.5


Q, K, V = "B H S D", "B H T D", "B H T E"
EXAMPLES: dict[str, list[tuple[Callable[..., Any], dict[str, str]]]] = {
    "fuse-attention": [
        (attention(0.5), {"q": Q, "k": K, "v": V}),
        (attention(-0.5), {"q": "B S D", "k": "B T D", "v": "B T E"}),
        (biased, {"q": Q, "k": K, "v": V, "bias": "H S T"}),
        (biased, {"q": Q, "k": K, "v": V, "bias": "B 1 S T"}),
        (capped, {"q": Q, "k": K, "v": V}),
    ],
    "merge-attention-heads": [(heads, {"q": "B S D", "k": "B S D", "v": "B S D"})],
    "group-query-heads": [
        (grouped, {"q": "B G*R S D", "k": "B G T D", "v": "B G T D"}),
        (
            lambda q, k, v: F.scaled_dot_product_attention(q, k, v, enable_gqa=True),
            {"q": Q, "k": "B 1 T D", "v": "B 1 T E"},
        ),
    ],
    "fuse-expert-linears": [(experts, {"x": "N K", "w": "const E M K", "i": "int N"})],
    "merge-low-rank-update": [(lora, {"x": "B S K", "w": "const N K", "a": "const R K", "b": "const N R"})],
}
FILLED = [
    (masked, {"q": Q, "k": K, "v": V, "mask": "bool B 1 1 T"}),
    (masked, {"q": Q, "k": K, "v": V, "mask": "bool S T"}),
]
# What a rule's docstring says that it does not keep.
INFINITIES = ("inf", "-inf")
WITHOUT = dict.fromkeys(("fuse-gelu", "reassociate-matmuls", "merge-low-rank-update"), INFINITIES)


@pytest.mark.parametrize("name", RULES)
def test_a_built_in_rule(name: str) -> None:
    examples = EXAMPLES.get(name, ())
    checked = check(RULES[name], examples, without=WITHOUT.get(name, ()), graphs=4)
    assert checked.programs >= (len(examples) or 4)
    assert checked.cases >= 30


def test_attention_with_hidden_scores() -> None:
    """A key that is NaN and hidden by a fill makes NaN in torch's kernels, which add -inf instead."""
    rule = RULES["fuse-attention"]
    assert check(rule, FILLED, without=("NaN", *INFINITIES)).programs == 4
    with pytest.raises(CheckFailed, match=r"fuse-attention is wrong: G1 output 0: .* NaN .* differ from eager"):
        check(rule, FILLED)
