"""Models whose forward rounds: passes are judged without rounding, what is compiled by what steps may change."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from tests.helpers import normal
from tests.small import graph_of
from txgraph.ir import interpret
from txgraph.verify import Verifier
from txgraph.verify.ties import WithoutRounding, with_ties_turned

OPS = torch.ops.txgraph


class Rounds(nn.Module):
    """A linear of quantized rows. The first row's second number, 0.5 of 127 steps, is a tie; no other is near one."""

    def __init__(self, shift: float = 0.0) -> None:
        super().__init__()
        self.weight, self.shift = nn.Parameter(normal(8, 4)), shift

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(OPS.fake_quantize_rows(x, None), self.weight) + self.shift


X = torch.tensor([[127.0, 0.5, 3.0, 4.0], [127.0, 1.2, 3.0, -4.0]])


def test_turned_ties_are_rounded_the_other_way() -> None:
    model = Rounds()
    turned = with_ties_turned(graph_of(model, X), [X])
    other = X.clone()
    other[0, 1], other[1, 1] = 1.0, 1.0  # 0.5 rounds to 0, half to even
    torch.testing.assert_close(turned[0].float(), F.linear(other, model.weight))
    assert with_ties_turned(graph_of(nn.Linear(4, 4), X), [X]) is None


def test_without_rounding() -> None:
    weight = normal(8, 4)
    with WithoutRounding():
        values, scales = OPS.quantize_rows(X, None)
        assert torch.equal(values * scales, X)
        assert torch.equal(OPS.fake_quantize_rows(X, weight[0]), X / weight[0])


def verifier_of(model: nn.Module) -> Verifier:
    verifier = Verifier("passes", model, (X,), {}, [X])
    verifier.check_capture(graph_of(model, X))
    return verifier


def test_a_step_in_what_is_compiled_passes_where_a_value_is_near_a_tie() -> None:
    model = Rounds()
    graph, verifier = graph_of(model, X), verifier_of(model)
    nearly = X * torch.tensor([1.0, 1 + 2**-23, 1.0, 1.0])  # 0.5 and a bit: rounds to 1
    assert not interpret(graph, [nearly])[0].equal(model(X))
    assert verifier.check_backend(lambda _: interpret(graph, [nearly])) == ""


def test_a_larger_error_in_what_is_compiled_breaks_a_gate() -> None:
    model = Rounds()
    graph, verifier = graph_of(model, X), verifier_of(model)
    other = X + torch.tensor([0.0, 9.0, 0.0, 0.0])  # many steps, where the tie's other side is one
    assert "G2" in verifier.check_backend(lambda _: interpret(graph, [other]))


def test_a_small_error_of_a_pass_is_not_hidden_by_steps() -> None:
    verifier = verifier_of(Rounds())
    assert verifier.check_graph("pass", graph_of(Rounds(), X)) == ""
    assert "G2" in verifier.check_graph("pass", graph_of(Rounds(shift=1e-2), X))  # less than one step
