"""What the packer writes: one index for each mask, each gather once, values back in their own layout."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from tests.padded import HOLES, LEFT, RIGHT, E, Encoder, H, assert_close, ids, is_packed, keys, mean, optimized
from tests.zoo import ZOO

Tensor = torch.Tensor


def test_one_index_and_each_gather_once() -> None:
    """The rotary embedding of two layers, queries and keys: a gather of its cosine, one of its sine, one of tokens."""
    inputs = ZOO["llama-sdpa"].inputs(3, 12)
    inputs["attention_mask"] = (torch.arange(12) < torch.tensor([[12], [5], [3]])).long()
    graph = optimized(ZOO["llama-sdpa"].model(), "zeros", **inputs).graph_after
    assert graph.count()["txgraph::token_index"] == 1
    gathers = [n for n in graph.calls() if n.target is torch.ops.aten.index.Tensor and n.args[0].meta["val"].ndim < 4]
    assert len({str(n.args) for n in gathers}) == len(gathers)
    assert len([n for n in gathers if n.args[0].meta["val"].is_floating_point()]) == 2


class Pair(nn.Module):
    """Two encoders, each with a mask of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = Encoder(keys, mean), Encoder(keys, lambda x, m: x.transpose(1, 2))

    def forward(self, ids: Tensor, mask: Tensor, others: Tensor, other_mask: Tensor) -> tuple[Tensor, Tensor]:
        return self.left(ids, mask), self.right(others, other_mask)


def test_two_masks() -> None:
    inputs = {"ids": ids(), "mask": RIGHT, "others": ids().flip(0), "other_mask": LEFT}
    model = Pair().eval()
    fast = optimized(model, "zeros", **inputs)
    assert fast.graph_after.count()["txgraph::token_index"] == 2
    assert [z.axes for z in fast.graph_after.zeroed] == [(0, 2)]
    (ours, moved), (theirs, expected) = fast(**inputs), model(**inputs)
    assert_close(ours, theirs)
    assert_close(moved.transpose(1, 2), expected.transpose(1, 2), LEFT)
    assert not moved.transpose(1, 2)[~LEFT].any()
    swapped = {**inputs, "mask": HOLES, "other_mask": RIGHT}
    assert_close(fast(**swapped)[0], model(**swapped)[0])
    assert len(fast.report.graphs) == 1


class TwoMasksOnOneAttention(nn.Module):
    """Both hide keys; tokens are those of the first, and the other stays a mask among them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words = nn.Embedding(50, E)
        self.eval()

    def forward(self, ids: Tensor, mask: Tensor, other: Tensor) -> Tensor:
        heads = self.words(ids).unflatten(-1, (H, -1)).transpose(1, 2)
        seen = mask[:, None, None] & other[:, None, None]
        out = F.scaled_dot_product_attention(heads, heads, heads, seen).transpose(1, 2).flatten(2)
        return mean(out, mask)


def test_two_masks_on_one_attention() -> None:
    model, inputs = TwoMasksOnOneAttention(), {"ids": ids(), "mask": RIGHT, "other": ~torch.eye(4, 8).bool()}
    inputs["other"][3] = True
    fast = optimized(model, **inputs)
    assert is_packed(fast)
    assert_close(fast(**inputs), model(**inputs))
    assert not [p for p in fast.report.graphs[0].passes if p.status == "rolled back"]
