"""What bad input gets: a clear error that says what to do, and a model that is left as it was."""

from __future__ import annotations

import shutil
from typing import Any

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel

import txgraph
from tests.zoo import ZOO
from txgraph import Accept, RewritePass


def linear() -> nn.Module:
    return nn.Linear(4, 4).eval()


X = torch.ones(2, 4)


def test_not_a_module() -> None:
    with pytest.raises(TypeError, match=r"expects a torch.nn.Module, got function.*forward\(\) calls it"):
        txgraph.optimize(lambda x: x)  # type: ignore[arg-type]


def test_a_model_that_is_optimized_already() -> None:
    fast = txgraph.optimize(linear(), backend="reference")
    with pytest.raises(TypeError, match="optimized already: optimize the original"):
        txgraph.optimize(fast)


def test_inputs_that_are_not_a_tuple() -> None:
    with pytest.raises(TypeError, match=r"args must be a tuple.*args=\(x,\)"):
        txgraph.optimize(linear(), args=X)  # type: ignore[arg-type]


@pytest.mark.parametrize("ask", ["graph_before", "graph_after"])
def test_never_called(ask: str) -> None:
    fast = txgraph.optimize(linear(), backend="reference")
    with pytest.raises(txgraph.TxgraphError, match="nothing is compiled yet: call the model once"):
        getattr(fast, ask)


def test_never_called_has_no_code_and_no_picture(tmp_path: Any) -> None:
    fast = txgraph.optimize(linear(), backend="reference")
    with pytest.raises(txgraph.TxgraphError, match="nothing is compiled yet"):
        fast.code()
    with pytest.raises(txgraph.TxgraphError, match="nothing is compiled yet"):
        fast.render(tmp_path / "x.svg")
    assert fast.report.to_dict()["graphs"] == []


def test_wrong_keyword_arguments_fail_as_in_eager() -> None:
    model = linear()
    with pytest.raises(TypeError, match="unexpected keyword argument 'mask'"):
        txgraph.optimize(model, args=(X,), kwargs={"mask": X}, backend="reference")
    with pytest.raises(TypeError, match="missing a required argument: 'input'"):
        txgraph.optimize(model, backend="reference")()


def test_a_model_on_the_meta_device() -> None:
    with torch.device("meta"):
        model = nn.Linear(4, 4)
    with pytest.raises(txgraph.TxgraphError, match=r"weight is on the meta device: it has no values. Load the weights"):
        txgraph.optimize(model, args=(X,))


def test_training_mode_with_dropout() -> None:
    model = ZOO["bert-sdpa"].model().train()
    with pytest.raises(txgraph.CaptureFailed, match=r"draws random numbers at .*dropout.*model.eval\(\)"):
        txgraph.optimize(model, kwargs=ZOO["bert-sdpa"].inputs(2, 8), backend="reference")
    assert model.training


def test_training_mode_without_dropout_is_accepted() -> None:
    model = nn.Linear(4, 4)
    fast = txgraph.optimize(model, args=(X,), backend="reference")
    assert torch.equal(fast(X), model(X))


def test_an_input_that_requires_grad() -> None:
    x = X.clone().requires_grad_()
    fast = txgraph.optimize(linear(), args=(X,), backend="reference")
    with pytest.raises(txgraph.GuardFailed, match="requires grad"):
        fast(x)
    with torch.no_grad():
        assert fast(x).shape == (2, 4)


class Branch(nn.Module):
    """A branch on a tensor's value."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.sum() > 0:
            return x + 1
        return x - 1


def test_a_data_dependent_branch_names_the_line() -> None:
    with pytest.raises(txgraph.CaptureFailed) as caught:
        txgraph.optimize(Branch(), args=(X,), backend="reference")
    message = str(caught.value)
    assert "Branch could not be captured" in message
    assert "test_bad_input.py" in message
    assert "if x.sum() > 0" in message
    assert "What to do" in message


def test_a_fallback_that_was_allowed_is_counted() -> None:
    fast = txgraph.optimize(Branch(), backend="reference", options={"allow_fallback": True})
    assert torch.equal(fast(X), X + 1)
    assert torch.equal(fast(-X), -X - 1)
    (fallback,) = fast.report.to_dict()["fallbacks"]
    assert fallback["what"] == "Branch"
    assert "runs eager" in fallback["reason"]
    with pytest.raises(txgraph.TxgraphError, match="there is no graph: Branch runs eager: "):
        fast.render("never.svg")


class Raises(RewritePass):
    """A user's pass with a bug."""

    def pattern(self, p: Any) -> Any:
        return p.aten.relu(p.any("x"))

    def check(self, match: Any) -> Accept:
        raise KeyError("oops")

    def rewrite(self, match: Any, g: Any) -> Any:
        return match["x"]


def test_a_user_pass_that_raises_is_named_and_the_graph_before_it_survives() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU()).eval()
    with pytest.raises(txgraph.PassFailed, match=r"pass raises raised KeyError: 'oops'") as caught:
        txgraph.optimize(model, args=(X,), passes=txgraph.Pipeline((Raises(),)), backend="reference")
    graph = caught.value.graph
    assert graph is not None
    assert torch.equal(txgraph.ir.interpret(graph, [X])[0], model(X))


class ReordersNodes(txgraph.Pass):
    """A user's pass that breaks the topological order."""

    def run(self, graph: txgraph.ir.Graph, context: txgraph.PassContext) -> list[txgraph.Rewrite]:
        first, last = graph.calls()[0], graph.calls()[-1]
        last.append(first)
        return [txgraph.Rewrite.of(self.name, [first])]


def test_a_user_pass_that_breaks_the_spec_is_named_and_the_graph_before_it_survives() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU()).eval()
    with pytest.raises(
        txgraph.PassFailed, match=r"pass reorders-nodes left an invalid graph: .*does not come before"
    ) as caught:
        txgraph.optimize(model, args=(X,), passes=txgraph.Pipeline((ReordersNodes(),)), backend="reference")
    assert caught.value.graph is not None
    assert torch.equal(txgraph.ir.interpret(caught.value.graph, [X])[0], model(X))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"padding": "zeros", "passes": txgraph.Pipeline()}, ValueError, "which this pipeline does not have"),
        ({"padding": "none"}, ValueError, "unknown padding 'none'"),
        ({"budget": 0.1}, TypeError, "budget must be a txgraph.Budget"),
        ({"calibration": []}, ValueError, "calibration gave no batch"),
        ({"verify": "sometimes"}, ValueError, "unknown verify"),
        (
            {"backend": "llvm"},
            ValueError,
            r"unknown backend 'llvm': expected one of \['auto', 'inductor', 'tvm'",
        ),
        ({"target": "tpu"}, ValueError, "unknown target 'tpu'"),
        (
            {"target": "cuda:sm_90"},
            ValueError,
            "verify='passes' runs what is compiled, and this machine has no cuda",
        ),
        ({"target": 3}, TypeError, "target must be a str or txgraph.Target"),
        ({"options": {"fast": True}}, ValueError, r"unknown options \['fast'\]"),
        ({"passes": []}, TypeError, "passes must be a txgraph.Pipeline"),
        ({"options": {"hardware": "h100"}}, TypeError, r"must be a txgraph.cost.Hardware, got str"),
        ({"dynamic_shapes": {"input": {0: 2}}}, ValueError, "dynamic_shapes needs example inputs"),
    ],
)
def test_no_argument_is_silently_ignored(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    args = () if "dynamic_shapes" in arguments else (X,)
    with pytest.raises(error, match=message):
        txgraph.optimize(linear(), args, **arguments)


def test_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(txgraph.BackendFailed, match=r"needs a C\+\+ compiler.*apt-get install g\+\+"):
        txgraph.optimize(linear(), args=(X,))
    assert txgraph.optimize(linear(), args=(X,), backend="reference")(X).shape == (2, 4)


def test_too_many_graphs() -> None:
    fast = txgraph.optimize(linear(), backend="reference", options={"max_graphs": 1})
    fast(X)
    with pytest.raises(txgraph.GuardFailed, match=r"max_graphs.*Declare the varying axes with dynamic_shapes"):
        fast(torch.ones(3, 4))


class WritesItsInput(nn.Module):
    """Adds one to its first input, in place."""

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        x.add_(1)
        return x * y


def test_inputs_that_overlap_while_one_is_written() -> None:
    fast = txgraph.optimize(WritesItsInput(), args=(X.clone(), X.clone()), backend="reference")
    assert torch.equal(fast(X.clone(), X.clone()), (X + 1) * X)
    shared = X.clone()
    with pytest.raises(txgraph.GuardFailed, match=r"writes to an input.*share memory: pass a clone"):
        fast(shared, shared)
    assert torch.equal(shared, X)


def test_the_model_is_left_as_it_was_by_a_failure() -> None:
    model = BertModel(BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=50)).eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(txgraph.PassFailed):
        txgraph.optimize(model, args=(torch.ones(1, 4, dtype=torch.long),), passes=txgraph.Pipeline((ReordersNodes(),)))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert model(torch.ones(1, 4, dtype=torch.long))[0].requires_grad
