"""The head of a language model is a linear, also where it shares its weight with the embedding."""

from __future__ import annotations

import torch
import transformers

import txgraph
from tests.helpers import normal
from txgraph import Budget
from txgraph.passes.low_rank.low_rank import LowRank


def test_a_head_of_low_rank_is_factored() -> None:
    """The embedding stays as it is: its rows are read one by one, and no product of factors is faster than that."""
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=600, n_embd=64, n_layer=1, n_head=2, n_positions=32)
    model = transformers.GPT2LMHeadModel(config).eval()
    low = normal(600, 8) @ normal(8, 64) / 8
    with torch.no_grad():
        model.transformer.wte.weight.copy_(low + 1e-3 * normal(600, 64))
    assert model.lm_head.weight is model.transformer.wte.weight
    data = [{"input_ids": torch.randint(0, 600, (2, 16)), "use_cache": False} for _ in range(4)]
    passes = txgraph.default_pipeline().append(LowRank(rank=8, modules="lm_head"))
    budget = Budget(relative_error=0.02)
    fast = txgraph.optimize(model, kwargs=data[0], passes=passes, budget=budget, calibration=data, backend="reference")
    assert fast.report.budget is not None
    assert [each.module for each in fast.report.budget.spent] == ["lm_head"]
    constants = {tuple(tensor.shape) for tensor in fast.graph_after.constants.values()}
    assert {(8, 64), (600, 8), (600, 64)} <= constants
    torch.testing.assert_close(fast(**data[0]).logits, model(**data[0]).logits, rtol=0.05, atol=0.05)
