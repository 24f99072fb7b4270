"""What taking units out must equal: the same graph with zeros where those units are read."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from txgraph.ir import Graph, check_spec, interpret
from txgraph.passes.sparsity.channels import HiddenChannels, hidden_channels, keep_channels
from txgraph.passes.sparsity.flow import UnitFlow
from txgraph.passes.sparsity.heads import AttentionHeads, attention_heads, keep_heads
from txgraph.passes.sparsity.linears import results_of, weights_of


def silenced(graph: Graph, flow: UnitFlow, kept: torch.Tensor) -> Graph:
    """A copy in which the columns of the units that go are zero; ``kept``: bool, of each unit."""
    result = graph.copy()
    for value, linear in flow.read:
        for weight in weights_of(linear):
            values = weight.values(graph).clone()
            stays = flow.units[value].kept(kept)
            values[:, ~stays.repeat(values.shape[1] // len(stays))] = 0
            result.constants.tensors[str(weight.constant.target)] = values.t() if weight.transposed else values
    return result


def assert_kept(graph: Graph, inputs: Sequence[torch.Tensor], blocks: int, heads: bool = False) -> None:
    """Each of so many blocks of a graph can lose some units, with the result that silence gives."""
    found: list[HiddenChannels] | list[AttentionHeads] = attention_heads(graph) if heads else hidden_channels(graph)
    assert len(found) == blocks
    before, text = interpret(graph, [t.clone() for t in inputs]), str(graph)
    for at, block in enumerate(found):
        kept = torch.randperm(block.flow.count, generator=torch.Generator().manual_seed(at))[: block.flow.count - 1]
        smaller = graph.copy()
        if heads:
            record = keep_heads(smaller, attention_heads(smaller)[at], kept, "test")
        else:
            record = keep_channels(smaller, hidden_channels(smaller)[at], kept, "test")
        smaller.eliminate_dead_code()
        check_spec(smaller, graph)
        assert str(graph) == text, "the original was changed"
        assert record.root in {n.name for _, linear in block.flow.read for n in results_of(linear)}
        stays = torch.zeros(block.flow.count, dtype=torch.bool)
        stays[kept] = True
        wanted = interpret(silenced(graph, block.flow, stays), [t.clone() for t in inputs])
        assert any(not torch.equal(a, b) for a, b in zip(before, wanted, strict=True)), "nothing depends on the units"
        for ours, theirs in zip(interpret(smaller, [t.clone() for t in inputs]), wanted, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)  # other sums, in float32
