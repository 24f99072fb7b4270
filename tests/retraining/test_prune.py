from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import txgraph
from tests.helpers import normal
from txgraph.retraining import Prune
from txgraph.retraining.prune import kept_channels, kept_elements
from txgraph.rewrite import Observed


def observed(sizes: torch.Tensor) -> Observed:
    return Observed(10, sizes, torch.diag(sizes.square()))


def test_the_smallest_weights_go() -> None:
    weight = torch.tensor([[1.0, -4.0, 0.5], [3.0, -0.1, 2.0]])
    assert kept_elements(weight, 0.5, None).tolist() == [[False, True, False], [True, False, True]]


def test_with_a_calibration_inputs_count_and_each_row_by_itself() -> None:
    weight = torch.tensor([[1.0, -4.0], [3.0, -2.0]])
    assert kept_elements(weight, 0.5, observed(torch.tensor([10.0, 1.0]))).tolist() == [[True, False], [True, False]]


def test_equal_weights() -> None:
    assert kept_elements(torch.ones(1, 4), 0.5, None).tolist() == [[True, True, False, False]]


def test_channels_by_weights_and_by_what_they_add() -> None:
    before, after = torch.tensor([[1.0], [3.0], [2.0]]), torch.tensor([[2.0, 1.0, 1.0]])
    assert kept_channels([before], [after], 0.6, None).tolist() == [False, True, False]
    seen = observed(torch.tensor([1.0, 1.0, 5.0]))
    assert kept_channels([before], [after], 0.6, seen).tolist() == [False, False, True]
    assert kept_channels([before], [after], 0.99, seen).sum() == 1


class Gated(nn.Module):
    """A gated block, a linear whose values others use, and one behind a softmax."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.gate, self.up, self.down = nn.Linear(8, 16, bias=False), nn.Linear(8, 16), nn.Linear(16, 8)
        self.seen, self.after, self.last = nn.Linear(8, 16), nn.Linear(16, 8), nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.down(F.silu(self.gate(x)) * self.up(x)).softmax(-1)
        seen = torch.relu(self.seen(x))
        return self.last(self.after(seen).softmax(-1)), seen


def test_channels_of_blocks_are_found_with_their_gates() -> None:
    model, x = Gated().eval(), normal(5, 8)
    small = txgraph.compress(model, Prune(0.5, structure="channels"), args=(x,))
    for name in ("seen", "after", "last"):
        assert isinstance(getattr(small, name), nn.Linear), "no hidden channels"
    dead = (small.down.effective_weight() == 0).all(0)
    assert dead.sum() == 8
    assert (small.up.effective_weight()[dead] == 0).all()
    assert (small.gate.effective_weight()[dead] == 0).all()
    assert (small.up.effective_weight()[~dead] != 0).all()
    small(x)[0].square().sum().backward()
    assert (small.up.bias[dead] == 0).all()
    assert (small.up.bias.grad[dead] == 0).all()
    assert (small.up.bias.grad[~dead] != 0).all()
    with torch.no_grad():
        for part in (model.up, model.gate):
            part.weight[dead] = 0
        model.down.weight[:, dead] = 0
    torch.testing.assert_close(small(x), model(x))


def test_channels_of_named_modules() -> None:
    with pytest.raises(ValueError, match=r"no hidden channels .* modules='last'; found before: down"):
        txgraph.compress(Gated(), Prune(modules="last", structure="channels"), args=(normal(5, 8),))
    small = txgraph.compress(Gated(), Prune(modules="up", structure="channels"), args=(normal(5, 8),))
    assert not isinstance(small.down, nn.Linear)


class Halves(nn.Module):
    """The gate and the values of a block are halves of one linear; those of another are seen through views."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.both, self.down = nn.Linear(8, 32), nn.Linear(16, 8)
        self.up, self.last = nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate, value = self.both(x).chunk(2, -1)
        x = self.down(F.silu(gate) * value).softmax(-1)
        return self.last(torch.relu(self.up(x).view(1, 5, 16)).view(5, 16))


def test_channels_are_all_that_a_linear_makes() -> None:
    model, x = Halves().eval(), normal(5, 8)
    small = txgraph.compress(model, Prune(0.5, structure="channels"), args=(x,))
    assert isinstance(small.both, nn.Linear)
    assert isinstance(small.down, nn.Linear)
    dead = (small.last.effective_weight() == 0).all(0)
    assert dead.sum() == 8
    assert (small.up.effective_weight()[dead] == 0).all()


def test_training_mode_is_kept() -> None:
    assert txgraph.compress(Gated().train(), Prune(structure="channels"), args=(normal(5, 8),)).down.training


@pytest.mark.parametrize("fraction", [0.0, 1.0, -1.0, 2.0])
def test_fractions(fraction: float) -> None:
    with pytest.raises(ValueError, match="fraction"):
        Prune(fraction)


def test_structures() -> None:
    with pytest.raises(ValueError, match="structure='rows'"):
        Prune(structure="rows")  # type: ignore[arg-type]
