"""Why a pass did what it did: asked of an optimized model, by the name of the pass."""

from __future__ import annotations

import dataclasses
import re

import pytest
import torch
from torch import nn

import txgraph
from tests.small import MLP, module
from txgraph import PassContext, Pipeline
from txgraph.cost import HARDWARE
from txgraph.explain import explain
from txgraph.passes.canonicalize.remove_identities import RemoveIdentities
from txgraph.passes.fold.fold_norm_affine import FoldNormAffine

X = torch.ones(3, 4)


class Attention(nn.Module):
    def forward(self, q: torch.Tensor, cap: torch.Tensor) -> torch.Tensor:
        scores = q @ q.transpose(-2, -1) * 0.5
        weights = (scores / 5).softmax(-2)
        seen = weights @ q
        return (seen @ seen.transpose(-2, -1)).softmax(-1) @ seen + cap


def optimized() -> txgraph.OptimizedModel:
    inputs = (torch.ones(2, 2, 64, 4), torch.ones(4))
    return txgraph.optimize(Attention(), args=inputs, backend="reference", verify="off")


def test_rewrites_and_near_misses_with_their_source_lines() -> None:
    fast = optimized()
    before, after = str(fast.graph_before), str(fast.graph_after)
    explanation = fast.explain("fuse-attention")
    assert (str(fast.graph_before), str(fast.graph_after)) == (before, after)
    first = Attention.forward.__code__.co_firstlineno
    (rewrite,) = explanation.rewrites
    assert rewrite.location == f"test_explain.py:{first + 4}"
    nearest = explanation.near_misses[0]
    assert nearest.reason == "the softmax is not over the keys"
    assert nearest.location == f"test_explain.py:{first + 2}"
    assert [m.nearness for m in explanation.near_misses] == sorted(
        (m.nearness for m in explanation.near_misses), reverse=True
    )
    text = str(explanation)
    assert text.startswith("fuse-attention: 1 rewrites, ")
    assert f"missed     (test_explain.py:{first + 2}): the softmax is not over the keys" in text


def test_passes_without_a_pattern_say_why_too() -> None:
    passes, norm = Pipeline((FoldNormAffine(),)), nn.LayerNorm(8)
    fast = txgraph.optimize(norm, args=(torch.ones(2, 8),), backend="reference", passes=passes, verify="off")
    (miss,) = fast.explain("fold-norm-affine").near_misses
    assert miss.reason == "%output uses the norm, and is no linear of it"
    assert fast.report.to_dict()["rewrites"] == []


def test_a_pass_that_is_not_there() -> None:
    with pytest.raises(ValueError, match=r"no pass named 'fuse-everything' in this pipeline: it has \['normalize"):
        optimized().explain("fuse-everything")


def test_a_pass_that_stands_twice_is_explained_as_a_whole() -> None:
    """A pass whose result was rolled back runs again on the graph as it was."""
    model = module(lambda x: (x.exp() * 1).neg())
    fast = txgraph.optimize(model, args=(X,), backend="reference", passes=Pipeline(()), verify="off")
    twice = Pipeline((RemoveIdentities(), RemoveIdentities()))
    graph, context = fast.graph_before, PassContext()
    assert len(explain(twice, graph, context, "remove-identities").rewrites) == 1
    assert len(explain(twice, graph, context, "remove-identities", skip={"remove-identities"}).rewrites) == 2


def test_many_near_misses_are_cut_in_the_text_only() -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        for _ in range(14):
            x = x * 2
        return x

    fast = txgraph.optimize(module(function), args=(X,), backend="reference", passes=Pipeline((RemoveIdentities(),)))
    explanation = fast.explain("remove-identities")
    assert len(explanation.near_misses) == 14
    assert "and 4 more, further away" in str(explanation)


def test_before_anything_is_compiled() -> None:
    with pytest.raises(txgraph.TxgraphError):
        txgraph.optimize(MLP(), backend="reference").explain("fuse-attention")


class OneKey(nn.Module):
    def forward(self, q: torch.Tensor, k: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return (q @ k.transpose(-2, -1) + mask).softmax(-1) @ k


def test_a_rewrite_that_does_not_pay_names_the_hardware_it_was_weighed_for() -> None:
    hardware = dataclasses.replace(HARDWARE["cpu-avx2"], name="a machine of mine", launch_seconds=1e-12)
    inputs = (torch.ones(2, 3, 4, 64), torch.ones(2, 3, 1, 64), torch.zeros(4, 1))
    fast = txgraph.optimize(OneKey(), args=inputs, backend="reference", verify="off", options={"hardware": hardware})
    explanation = fast.explain("fuse-attention")
    assert explanation.rewrites == ()
    assert re.fullmatch(r"no gain: predicted -\d+\.\d\d µs on a machine of mine", explanation.near_misses[0].reason)
