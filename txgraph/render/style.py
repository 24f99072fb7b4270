"""How each status looks: told apart by colour, by border and by words, so that it survives print and colour blindness.

Colours: Okabe & Ito 2008, "Color Universal Design".
"""

from __future__ import annotations

from dataclasses import dataclass

from txgraph.render.diff import Status

FONT = "Helvetica,Arial,sans-serif"
INK = "#222222"
QUIET = "#666666"
GRID = "#DDDDDD"


# Attributes of Graphviz for the whole, for boxes, for arrows and for the frames of modules.
GRAPH = {
    "fontname": FONT,
    "fontcolor": INK,
    "newrank": "true",
    "nodesep": "0.18",
    "ranksep": "0.2",
    "pad": "0.2",
    "outputorder": "edgesfirst",
}
NODE = {
    "shape": "box",
    "fontname": FONT,
    "fontsize": "10",
    "fontcolor": INK,
    "margin": "0.07,0.035",
    "height": "0.25",
}
EDGE = {"fontname": FONT, "fontsize": "8", "fontcolor": QUIET, "color": "#777777", "arrowsize": "0.6"}
FRAME = {
    "labeljust": "l",
    "fontname": FONT,
    "fontsize": "10",
    "style": "rounded",
    "bgcolor": "#00000006",
    "color": "#CCCCCC",
    "penwidth": "1",
    "margin": "6",
}
REPEATED = {"color": "#555555", "penwidth": "2"}


@dataclass(frozen=True)
class Look:
    """Attributes of a box, and the words for the legend."""

    fill: str
    line: str
    meaning: str
    border: str = "solid"
    width: float = 1.0
    borders: int = 1


LOOKS = {
    Status.FUSED: Look("#B5D8F0", "#0072B2", "fused", width=2.8),
    Status.ADDED: Look("#CDEBDF", "#009E73", "added", width=1.2, borders=2),
    Status.REMOVED: Look("#FBDCC8", "#D55E00", "removed", border="dashed", width=1.4),
    Status.CHANGED: Look("#FCF4F9", "#AA4499", "changed", border="dotted", width=1.5),
    Status.UNCHANGED: Look("#FFFFFF", "#999999", "unchanged"),
}

# Of the methods that a budget was spent on, in the order of their places.
METHODS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")


def heat(share: float) -> str:
    """A colour for a share of the time: the redder, the more; dark enough to be read on white."""
    steps = ("#7A6A00", "#9A5B00", "#B04300", "#B51A00")
    return steps[min(int(share * 20), len(steps) - 1)]
