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


def two_linears(x: Tensor, w: Tensor, v: Tensor) -> Tensor:
    return aten.linear.default(x, w) * aten.linear.default(x, v)


def pooled(x: Tensor, w: Tensor, mask: Tensor) -> Tensor:
    q = aten.unsqueeze.default(aten.linear.default(x, w), 1)
    seen = aten.unsqueeze.default(aten.unsqueeze.default(mask, 1), 1)
    y = aten.squeeze.dim(aten.scaled_dot_product_attention.default(q, q, q, seen), 1)
    padding = aten.unsqueeze.default(aten.logical_not.default(mask), -1)
    return aten.sum.dim_IntList(aten.masked_fill.Scalar(y, padding, 0.0), [1])


def causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    seen = aten.tril.default(aten.new_ones.default(q, [q.shape[-2], k.shape[-2]], dtype=torch.bool))
    return aten.scaled_dot_product_attention.default(q, k, v, seen)


def windows(lower: int, upper: int) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    def function(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        seen = aten.new_ones.default(q, [q.shape[-2], k.shape[-2]], dtype=torch.bool)
        seen = aten.triu.default(aten.tril.default(seen, upper), lower)
        return aten.scaled_dot_product_attention.default(q, k, v, seen)

    return function


def trained_in_int8(x: Tensor, w: Tensor, v: Tensor) -> Tensor:
    rows = torch.ops.txgraph.fake_quantize_rows.default(x, None)
    first, second = (torch.ops.txgraph.fake_quantize_weight.default(each, None, 8, 0) for each in (w, v))
    return aten.cat.default([aten.linear.default(rows, first), aten.linear.default(rows, second)], -1)


# Passes without a pattern: what they look for, one operator for each.
OTHERS: dict[str, list[tuple[Callable[..., Any], dict[str, str]]]] = {
    "normalize-arithmetic": [
        (lambda x: aten.pow.Tensor_Scalar(x, 2).neg(), {"x": "B S"}),
        (lambda x, y: aten.rsub.Scalar(aten.true_divide.Tensor(x, y), 1), {"x": "B S", "y": "S"}),
    ],
    "normalize-matmul": [
        (lambda x, y: aten.bmm.default(x, y), {"x": "B S K", "y": "B K N"}),
        (lambda x, y, z: aten.baddbmm.default(z, x, y, beta=0.5, alpha=2.0), {"x": "B S K", "y": "B K N", "z": "S N"}),
        (lambda x, y: aten.einsum.default("bhsd,bhtd->bhst", [x, y]), {"x": "B H S D", "y": "B H T D"}),
    ],
    "normalize-views": [
        (lambda x: aten.permute.default(aten.transpose.int(x, 0, 1), [0, 2, 1]).neg(), {"x": "B S K"}),
        (lambda x: aten.view.default(x, [x.shape[0], x.shape[1] * x.shape[2]]).neg(), {"x": "B S K"}),
    ],
    "remove-empty-pieces": [(lambda x: aten.cat.default([aten.new_zeros.default(x, [0]), x], 1), {"x": "B S"})],
    "eliminate-common-subexpressions": [(lambda x: aten.sin.default(x) + aten.sin.default(x), {"x": "B S"})],
    "move-selections-up": [
        (lambda x, w: aten.select.int(aten.linear.default(x, w), 1, 0), {"x": "B S K", "w": "const N K"}),
        (lambda x: aten.slice.Tensor(aten.exp.default(x), 1, 1, 2).neg(), {"x": "B S K"}),
    ],
    "recognize-masks": [(causal, {"q": Q, "k": Q, "v": Q})],
    "recognize-windows": [(windows(-1, 0), {"q": Q, "k": K, "v": V}), (windows(0, 0), {"q": Q, "k": K, "v": V})],
    "fold-constants": [(lambda x, w: x + aten.exp.default(w), {"x": "B S", "w": "const S"})],
    "combine-constant-terms": [
        (lambda x, y, a, b: ((x + a) + y + b).neg(), {"x": "B S", "y": "B S", "a": "const S", "b": "const S"})
    ],
    "remove-padding": [(pooled, {"x": "B S K", "w": "const K K", "mask": "bool B S"})],
    "fuse-shared-input-linears": [(two_linears, {"x": "B S K", "w": "const N K", "v": "const N K"})],
    "lower-fake-quantization": [(trained_in_int8, {"x": "B S K", "w": "const N K", "v": "const M K"})],
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_built_in_pass_without_a_pattern(name: str) -> None:
    (each,) = {type(p): p for p in default_pipeline() if p.name == name}.values()
    checked = check(each, OTHERS[name], without=OTHER_WITHOUT.get(name, ()))
    assert checked.programs >= len(OTHERS[name])
    assert checked.cases >= 30


def test_every_built_in_pass_is_checked() -> None:
    """But dead code elimination, which replaces nothing, and passes for weights that chance does not make.

    Those are variances, which would be negative, and rows or columns of zeros.
    """
    others = set(default_pipeline().names) - RULES.keys() - OTHERS.keys()
    assert others == {"eliminate-dead-code", "fold-batch-norm", "remove-dead-channels", "remove-dead-heads"}


FILLED = [
    (masked, {"q": Q, "k": K, "v": V, "mask": "bool B 1 1 T"}),
    (masked, {"q": Q, "k": K, "v": V, "mask": "bool S T"}),
]
# What a rule's docstring says that it does not keep.
INFINITIES = ("inf", "-inf")
OTHER_WITHOUT = dict.fromkeys(("recognize-masks", "remove-padding"), ("NaN", *INFINITIES))
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
