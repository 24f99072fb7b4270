"""A few shapes as SVG, and axes: what charts are drawn with. Lengths are in pixels, from the upper left corner."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from html import escape

from txgraph.render.style import FONT, GRID, INK, QUIET

SMALL = 11  # font size


@dataclass
class Chart:
    """Shapes on a white ground, drawn in the order in which they are added."""

    width: float
    height: float
    _shapes: list[str] = field(default_factory=list)

    def add(self, tag: str, title: str = "", **attributes: object) -> None:
        """A shape; ``_`` in names of attributes is ``-``, and none at their ends. The title is shown at the pointer."""
        told = f"<title>{escape(title)}</title>" if title else ""
        self._shapes.append(f"<{tag}{_attributes(attributes)}>{told}</{tag}>")

    def line(self, x1: float, y1: float, x2: float, y2: float, color: str = GRID, **more: object) -> None:
        """A straight line."""
        self.add("line", "", x1=x1, y1=y1, x2=x2, y2=y2, stroke=color, **more)

    def text(self, x: float, y: float, words: str, anchor: str = "start", color: str = INK, **more: object) -> None:
        """Words whose start, middle or end is at ``x``."""
        given = _attributes({"x": x, "y": y, "text_anchor": anchor, "fill": color, "font_size": SMALL} | more)
        self._shapes.append(f"<text{given}>{escape(words)}</text>")

    def svg(self, label: str) -> str:
        """As an element, to stand alone or inside of another; ``label`` says what it shows."""
        given = {"width": self.width, "height": self.height, "role": "img", "aria_label": label}
        ground = '<rect width="100%" height="100%" fill="#FFFFFF"/>\n'
        shapes = "\n".join(self._shapes)
        view = f' xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_text(self.width)} {_text(self.height)}"'
        return f'<svg{view}{_attributes(given)} font-family="{FONT}">\n{ground}{shapes}\n</svg>'


@dataclass(frozen=True)
class Axis:
    """From values to places.

    Attributes:
        low, high: values. start, end: where these are. log: whether equal ratios are equally far apart.
        form: how a value is written at its tick.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False
    form: Callable[[float], str] = "{:g}".format

    def at(self, value: float) -> float:
        """Where a value is; those outside are at the ends."""
        scale = math.log if self.log else float
        low, high = scale(self.low), scale(self.high)
        share = (scale(max(value, self.low)) - low) / (high - low)
        return self.start + min(share, 1.0) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Round values between the ends."""
        if not self.log:
            step = _round_step((self.high - self.low) / 6)
            return [
                at * step for at in range(math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9) + 1)
            ]
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        leading = (1, 2, 5) if len(decades) < 5 else (1,)
        ticks = [first * 10.0**decade for decade in decades for first in leading]
        return [tick for tick in ticks if self.low <= tick * (1 + 1e-9) and tick <= self.high * (1 + 1e-9)]

    def draw_across(self, chart: Chart, bottom: float, top: float, words: str) -> None:
        """As the axis along the lower edge, with lines up to ``top``."""
        for tick in self.ticks():
            chart.line(self.at(tick), bottom, self.at(tick), top)
            chart.text(self.at(tick), bottom + 15, self.form(tick), "middle", QUIET)
        chart.text((self.start + self.end) / 2, bottom + 32, words, "middle")

    def draw_up(self, chart: Chart, left: float, right: float, words: str) -> None:
        """As the axis along the left edge, with lines to ``right``."""
        for tick in self.ticks():
            chart.line(left, self.at(tick), right, self.at(tick))
            chart.text(left - 6, self.at(tick) + 4, self.form(tick), "end", QUIET)
        middle = (self.start + self.end) / 2
        chart.text(14, middle, words, "middle", transform=f"rotate(-90 14 {_text(middle)})")


def _round_step(least: float) -> float:
    """The smallest of 1, 2, 5, 10, ... times a power of ten that is no less."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(first * power for first in (1, 2, 5, 10) if first * power >= least * (1 - 1e-9))


def _attributes(given: dict[str, object]) -> str:
    return "".join(f' {name.rstrip("_").replace("_", "-")}="{escape(_text(value))}"' for name, value in given.items())


def _text(value: object) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
