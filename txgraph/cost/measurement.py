"""What a stopwatch, or else the cost model, says of a rewrite."""

from __future__ import annotations

from dataclasses import dataclass

MARGIN = 0.03  # what timing may be off: a rewrite that is slower by no more is kept


@dataclass(frozen=True)
class Measurement:
    """One kind of rewrite, measured.

    Attributes:
        rule: name of the pass. root: of the first place. places: where the graph has it.
        before, after: seconds of what it removes, and of what it makes; best of several runs.
        problem: why it could not be measured, if so; the seconds are then predicted.
    """

    rule: str
    root: str
    before: float = 0.0
    after: float = 0.0
    problem: str = ""
    places: int = 1

    @property
    def pays(self) -> bool:
        """Whether it is kept."""
        return self.after <= self.before * (1 + MARGIN)

    def __str__(self) -> str:
        times = f"{self.after * 1e6:.1f} µs instead of {self.before * 1e6:.1f} µs"
        return f"predicted {times}, not measured: {self.problem}" if self.problem else f"measured {times}"
