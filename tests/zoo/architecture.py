"""What an entry of the zoo is, and the inputs that entries share."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import nn

import txgraph
from tests.zoo.counts import Counts, in_eager
from txgraph.cost import hardware_of

Inputs = dict[str, torch.Tensor]
BOTH = ("sdpa", "eager")  # implementations of attention in transformers
EAGER = ("eager",)

# Small sizes that most configurations of transformers share. Capturing is most of what a test costs, so that models
# whose layers have nothing in common but their kind have one.
# What starting a kernel costs would decide over models as small as these, and does not over the large ones they stand
# for: rewrites are weighed without it.
OPTIONS: dict[str, Any] = {
    "hardware": dataclasses.replace(hardware_of(txgraph.Target("cpu")), name="no launch", launch_seconds=1e-12)
}
WORDS = {"vocab_size": 100}
SPECIAL = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
ENCODER = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
DECODER = {**ENCODER, "num_key_value_heads": 2}
ONE_LAYER = {"num_hidden_layers": 1}


@dataclass(frozen=True)
class Architecture:
    """One entry of the zoo.

    Attributes:
        make: builds the model. inputs: of a batch size and a length.
        fused: whether every attention can be one operator (not where its weights are returned).
    """

    name: str
    make: Callable[[], nn.Module]
    inputs: Callable[[int, int], Inputs]
    fused: bool = True

    def model(self) -> nn.Module:
        """The model with seeded weights, in eval mode."""
        torch.manual_seed(0)
        return self.make().eval()

    def fresh(self, batch: int, length: int) -> Inputs:
        """Other inputs of the same shape: what compiling with :attr:`inputs` has not seen."""
        return {name: tensor.flip(0) for name, tensor in self.inputs(batch, length).items()}

    @cached_property
    def counts(self) -> Counts:
        """What one forward computes in eager."""
        return in_eager(self.model(), self.inputs(2, 12))


def family(
    name: str,
    model: Callable[[Any], nn.Module],
    config: Callable[..., Any],
    settings: Mapping[str, Any],
    inputs: Callable[[int, int], Inputs],
    implementations: Sequence[str] = BOTH,
) -> Iterator[Architecture]:
    """A model of transformers in each implementation of attention that it has."""
    for kind in implementations:
        yield Architecture(
            f"{name}-{kind}", partial(_build, model, config, {**settings, "attn_implementation": kind}), inputs
        )


def _build(model: Callable[[Any], nn.Module], config: Callable[..., Any], settings: Mapping[str, Any]) -> nn.Module:
    return model(config(**settings))


def tokens(batch: int, length: int) -> Inputs:
    """Token ids, and a mask that hides the end of the later sequences."""
    generator = torch.Generator().manual_seed(batch * 1000 + length)
    ids = torch.randint(5, 90, (batch, length), generator=generator)
    mask = torch.ones(batch, length, dtype=torch.long)
    for row in range(1, batch):
        mask[row, length - row % (length - 1) :] = 0
    return {"input_ids": ids, "attention_mask": mask}


def unmasked(batch: int, length: int) -> Inputs:
    """Token ids alone."""
    return {"input_ids": tokens(batch, length)["input_ids"]}


def both_sides(batch: int, length: int) -> Inputs:
    """Token ids with a mask for an encoder, and fewer for its decoder."""
    return {**tokens(batch, length), "decoder_input_ids": tokens(batch, max(2, length // 2))["input_ids"]}


def images(batch: int, length: int) -> Inputs:
    """Images of one size."""
    return {"pixel_values": normal(batch, 3, 32, 32)}


def normal(*shape: int) -> torch.Tensor:
    """Seeded normal numbers."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))
