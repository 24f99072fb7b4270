"""Which of torch's attention kernels is called: each condition of each."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from tests.helpers import normal
from tests.small import traced
from txgraph.backends.gpus import GPUS
from txgraph.backends.inductor.cuda_attention import choose_cuda_attention

HALF, FLOAT = torch.float16, torch.float32


def chosen(function: Callable[..., torch.Tensor], *inputs: torch.Tensor, arch: str = "sm_90") -> str:
    graph = traced(function, *inputs)
    choose_cuda_attention(graph, GPUS[arch])
    (name,) = [name for name in graph.count() if name.startswith("_scaled_dot_product_")]
    return name.removeprefix("_scaled_dot_product_").removesuffix("_attention")


def qkv(dtype: torch.dtype, heads: int = 2, key_heads: int = 2, keys: int = 8, head: int = 16) -> list[torch.Tensor]:
    return [normal(2, h, s, head).to(dtype) for h, s in ((heads, 8), (key_heads, keys), (key_heads, keys))]


@pytest.mark.parametrize(
    ("expected", "inputs", "arch"),
    [
        ("flash", qkv(HALF), "sm_90"),
        ("flash", qkv(torch.bfloat16, keys=12), "sm_80"),
        ("efficient", qkv(HALF), "sm_75"),  # no flash attention there
        ("efficient", qkv(FLOAT), "sm_90"),
        ("efficient", qkv(HALF, head=264), "sm_90"),  # larger heads than flash attention takes
        ("efficient", qkv(FLOAT, head=5), "sm_75"),
        ("attention_math", qkv(FLOAT, head=5), "sm_80"),  # 5 floats are not 16 bytes
        ("attention_math", qkv(HALF, head=12), "sm_90"),
        ("attention_math", qkv(torch.float64), "sm_90"),
        ("attention_math", [t[0] for t in qkv(HALF)], "sm_90"),  # three axes
        ("attention_math", qkv(FLOAT, key_heads=1), "sm_90"),  # one head for all queries: broadcast
        ("attention_math", qkv(FLOAT, keys=0), "sm_90"),
    ],
)
def test_without_a_mask(expected: str, inputs: list[torch.Tensor], arch: str) -> None:
    assert chosen(lambda q, k, v: F.scaled_dot_product_attention(q, k, v), *inputs, arch=arch) == expected


def test_causal_with_other_lengths_is_not_flash() -> None:
    def causal(*inputs: torch.Tensor) -> torch.Tensor:
        return F.scaled_dot_product_attention(*inputs, is_causal=True)

    def plain(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return causal(q, k, v)

    assert chosen(plain, *qkv(HALF)) == "flash"
    assert chosen(plain, *qkv(HALF, keys=12)) == "efficient"


def test_a_mask_is_added_to_the_scores() -> None:
    def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return F.scaled_dot_product_attention(q, k, v, mask)

    visible = torch.ones(2, 1, 1, 8, dtype=torch.bool)
    assert chosen(attention, *qkv(HALF), visible) == "efficient"
    assert chosen(attention, *qkv(HALF), visible[0, 0]) == "efficient"
    assert chosen(attention, *qkv(HALF), visible[0]) == "attention_math"  # three axes
    graph = traced(attention, *qkv(HALF), visible)
    choose_cuda_attention(graph, GPUS["sm_90"])
    (bias,) = [node for node in graph.nodes if node.target is torch.ops.aten.expand.default]
    assert bias.meta["val"].shape == (2, 2, 8, 8)
    assert bias.meta["val"].dtype is HALF


def test_grouped_queries() -> None:
    def grouped(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return F.scaled_dot_product_attention(q, k, v, enable_gqa=True)

    assert chosen(grouped, *qkv(HALF, heads=4)) == "attention_math"
