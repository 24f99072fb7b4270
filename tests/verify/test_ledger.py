"""verify="rewrites": every rewrite has an entry, a wrong one is left out by itself, and the worst are named."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import nn
from torch.fx import Node

import txgraph
from tests.small import MLP, assert_as_eager
from tests.zoo import OPTIONS, ZOO
from txgraph import NodePass, Pipeline, Rewrite
from txgraph.ir import GraphBuilder, op_name
from txgraph.verify import Ledger, LedgerEntry, LocalError

X = torch.linspace(-1, 1, 8).reshape(2, 4)


def error(change: float) -> LocalError:
    return LocalError(1e-7, 2e-7, 1e-16, (), change)


REWRITES = [Rewrite("rule", (f"n{at}",), (), "block", "model.py:7") for at in range(4)]


@pytest.fixture(scope="module")
def bert() -> txgraph.OptimizedModel:
    architecture = ZOO["bert-eager"]
    return txgraph.optimize(
        architecture.model(), kwargs=architecture.inputs(2, 12), backend="reference", verify="rewrites", options=OPTIONS
    )


def test_shares_add_up_as_squares() -> None:
    three, four = error(3e-7), error(4e-7)
    ledger = Ledger.of([list(zip(REWRITES, [three, four, error(0.0), None], strict=True))])
    assert [entry.share for entry in ledger] == [pytest.approx(0.36), pytest.approx(0.64), 0.0, None]
    assert [entry.rewrite.root for entry in ledger.worst(2)] == ["n1", "n0"]
    assert len(ledger) == 4
    assert len(ledger.measured) == 3


def test_rewrites_of_one_region_share_its_part() -> None:
    both = error(1e-7)
    ledger = Ledger.of([[(REWRITES[0], both), (REWRITES[1], both)], [(REWRITES[2], error(1e-7))]])
    assert [(entry.graph, entry.share) for entry in ledger] == [(0, 0.5), (0, 0.5), (1, 1.0)]


def test_nothing_changed() -> None:
    (entry,) = Ledger.of([[(REWRITES[0], error(0.0))]])
    assert entry.share == 0.0


def test_as_text() -> None:
    entry = LedgerEntry(REWRITES[0], error(3e-7), 0.25)
    assert str(entry) == "rule at %n0 in block (model.py:7): changes the outputs by 3.0e-07, 25% of all changes"
    assert str(LedgerEntry(Rewrite("rule", ("a",)))) == "rule at %a: not measured"
    table = str(Ledger((entry, LedgerEntry(REWRITES[1], error(0.0), 0.0), LedgerEntry(REWRITES[2]))))
    assert "rule %n0" in table
    assert "3.0e-07" in table
    assert "n1" not in table
    assert "rule: 1 x same outputs" in table
    assert "rule: 1 x not measured" in table


def test_a_model(bert: txgraph.OptimizedModel) -> None:
    ledger = bert.report.ledger
    applied = [r for p in bert.report.graphs[0].passes if p.status == "applied" for r in p.rewrites]
    assert [entry.rewrite for entry in ledger] == applied
    assert len(ledger.measured) >= len(applied) - 1  # a value that then was folded away, too
    assert sum(entry.share or 0.0 for entry in ledger) == pytest.approx(1.0)
    attention = [entry for entry in ledger if entry.rewrite.rule == "fuse-attention"]
    assert len(attention) == 2
    for entry in attention:
        assert entry.error is not None
        assert entry.error.exact < 1e-12
        assert 1e-9 < entry.error.after < 1e-6
        assert 1e-9 < entry.error.change < 1e-6
        assert entry.rewrite.location.startswith("modeling_bert.py:")
    worst = bert.report.blame(2)
    assert [e.error.change for e in worst if e.error] == sorted(
        (e.error.change for e in ledger if e.error), reverse=True
    )[:2]
    data = bert.report.to_dict()["ledger"]
    assert json.loads(json.dumps(data)) == data
    assert data[0]["rule"] == applied[0].rule
    assert [(p.status, p.vetoed) for p in bert.report.graphs[0].passes if p.status == "rolled back" or p.vetoed] == []


def test_without_measurements() -> None:
    fast = txgraph.optimize(MLP(), (X,), backend="reference")
    assert fast.report.ledger.measured == []
    assert len(fast.report.ledger) == len([r for p in fast.report.graphs[0].passes for r in p.rewrites])
    with pytest.raises(ValueError, match=r'verified by \'passes\': .* optimize\(\.\.\., verify="rewrites"\)'):
        fast.report.blame()


class Whisper(nn.Module):
    """A sine that hardly reaches the output."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.exp() + x.sin() * 1e-12 + x.cos().sin() * 0.5


class LargerSines(NodePass):
    """Wrong for those that are not of a cosine."""

    def rewrite(self, node: Node, g: GraphBuilder) -> Node | None:
        if op_name(node) != "sin":
            return None
        made = g.aten.sin(node.args[0])
        return made if op_name(node.args[0]) == "cos" else g.aten.mul.Tensor(made, 1.01)


def test_what_the_outputs_do_not_show_is_seen_where_it_is_made() -> None:
    model = Whisper()
    unseen = txgraph.optimize(model, (X,), backend="reference", passes=Pipeline((LargerSines(),)))
    assert [p.status for p in unseen.report.graphs[0].passes] == ["applied"]
    assert not unseen.report.graphs[0].passes[0].vetoed
    fast = txgraph.optimize(model, (X,), backend="reference", passes=Pipeline((LargerSines(),)), verify="rewrites")
    (record,) = fast.report.graphs[0].passes
    assert record.status == "applied"
    assert len(record.rewrites) == 1
    ((_, reason),) = record.vetoed.items()
    assert reason.startswith("by itself: G2 output 0: ")
    assert "G3" in reason
    assert [entry.rewrite for entry in fast.report.ledger] == list(record.rewrites)
    assert_as_eager(fast(X), model, X)


def test_a_pass_that_cannot_leave_out_single_rewrites_is_rolled_back() -> None:
    class Stubborn(LargerSines):
        def run(self, graph: Any, context: Any) -> list[Rewrite]:
            return super().run(graph, txgraph.PassContext())

    model = Whisper()
    fast = txgraph.optimize(model, (X,), backend="reference", passes=Pipeline((Stubborn(),)), verify="rewrites")
    (record,) = fast.report.graphs[0].passes
    assert record.status == "rolled back"
    assert "it cannot leave out single rewrites: by itself: G2" in record.reason
    assert len(fast.report.ledger) == 0
    assert_as_eager(fast(X), model, X)


@pytest.mark.parametrize("name", ["gpt2-unmasked-eager", "mixtral-sdpa"])
def test_honest_passes_keep_all_their_rewrites(name: str) -> None:
    """What is right for the model is right where it is made, too."""
    model, inputs = ZOO[name].model(), ZOO[name].inputs(2, 12)
    levels = [
        txgraph.optimize(model, kwargs=inputs, backend="reference", verify=level, options=OPTIONS)
        for level in ("passes", "rewrites")
    ]
    once, each = ([(p.name, p.status, len(p.rewrites), p.vetoed) for p in f.report.graphs[0].passes] for f in levels)
    assert once == each
    assert len(levels[1].report.ledger.measured) > 20
