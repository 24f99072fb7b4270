"""Recipes of models that were once handled wrongly, and of those that still are."""

from __future__ import annotations

from dataclasses import dataclass

from txgraph.fuzz.attention import Attention
from txgraph.fuzz.blocks import BatchNorm, Experts
from txgraph.fuzz.models import Ends, Recipe
from txgraph.fuzz.plumbing import Identity, InPlace


@dataclass(frozen=True)
class Regression:
    """A recipe that must pass.

    Attributes:
        open: what is wrong with it, as long as it is not repaired.
    """

    recipe: Recipe
    backend: str = "reference"
    open: str = ""


REGRESSIONS: dict[str, Regression] = {
    "a buffer written with a value that broadcasts": Regression(
        Recipe(blocks=(InPlace(how="{counter}.copy_(y.mean()); y = y - {counter}"),)),
    ),
    "a reshape behind a batch norm of a transposed value": Regression(
        Recipe(blocks=(BatchNorm(), Experts(how="picked"))),
    ),
    "a bias of each head on scores from bmm": Regression(
        Recipe(blocks=(Attention(call="method", product="bmm", bias="alibi"),)),
    ),
    "an output that is a plain number": Regression(
        Recipe(ends=Ends(outputs="plain")),
        backend="inductor",
    ),
    "a bias beside a finite mask that hides whole rows": Regression(
        Recipe(
            seed=228,
            ends=Ends(mask="bool"),
            blocks=(Attention(window=2, padding=True, soft="number", bias="parameter", softcap=5.0),),
        ),
        open="fuse-attention adds bias and mask first: where all keys are hidden that is one rounding more",
    ),
    "an input that is returned through dropout": Regression(
        Recipe(blocks=(Identity(how="F.dropout({x}, 0.3, training=False)"),)),
    ),
    "sizes that vary and are equal in the example": Regression(
        Recipe(ends=Ends(given="ids"), dynamic="both", batch=3, length=3),
        backend="inductor",
    ),
}
