"""What every block of a random model is."""

from __future__ import annotations

from dataclasses import dataclass

from txgraph.fuzz.choices import Choices
from txgraph.fuzz.source import Writer


@dataclass(frozen=True)
class Block(Choices):
    """A part of a model that takes [B, S, E] to [B, S, E]; its simplest form is made without arguments."""

    def write(self, w: Writer, x: str) -> str:
        """Write the lines that compute the block of the value named ``x``; the name of the result."""
        raise NotImplementedError
