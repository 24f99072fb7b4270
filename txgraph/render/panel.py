"""What is drawn of one graph: boxes, arrows and frames, before any word of DOT or HTML."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import prod

from txgraph.render.diff import Fate
from txgraph.render.fold import Repeat
from txgraph.render.view import Op, Path

MAX_ARROWS = 8  # out of one box; a value with more users is named where it is used


@dataclass(frozen=True)
class Box:
    """One node of the drawing: an operator, a chain of views, or a group of boxes.

    Attributes:
        id: unique in its panel. path: of the module in which it is drawn.
        note: what became of it, such as ``fused by fuse-attention (11 of 12)``.
        number: shared by the boxes before and after of one rewrite.
        times: how many equal ones it stands for: those of folded layers.
        seconds: that all of them take, predicted or measured.
        replaced: operators of the graph before that it was made of, where the two graphs are drawn as one.
        inside: the boxes that it stands for. title: what these are together.
    """

    id: str
    path: Path
    ops: tuple[Op, ...]
    fate: Fate
    note: str = ""
    number: int | None = None
    times: int = 1
    seconds: float = 0.0
    replaced: tuple[Op, ...] = ()
    inside: tuple[Box, ...] = ()
    title: str = ""

    @property
    def is_operator(self) -> bool:
        """Whether it computes; inputs and outputs do not."""
        return self.ops[0].kind == "call_function"

    def operators(self, copies: int = 1) -> int:
        """How many operators it stands for in each of so many equal modules."""
        parts = self.inside or (self,)
        return sum(len(box.ops) * max(box.times // copies, 1) for box in parts)


@dataclass(frozen=True)
class Link:
    """An arrow between two boxes, by their ids.

    Attributes:
        removed: whether it was in the graph before only, where the two graphs are drawn as one.
    """

    source: str
    target: str
    type: str
    removed: bool = False


@dataclass
class Frame:
    """A module with the boxes of its own and of its submodules."""

    path: Path
    boxes: list[Box] = field(default_factory=list)
    children: dict[str, Frame] = field(default_factory=dict)


@dataclass(frozen=True)
class Panel:
    """One drawing of one graph.

    Attributes:
        side: ``"before"``, ``"after"``, or ``"diff"`` where both are drawn as one.
        repeats: the drawn modules that stand for several. classes: class names of all modules.
        operators: number of operators of the whole graph, or of the module in focus, without folding.
        was: the same of the graph before, where both are drawn as one.
        measured: whether the seconds of its boxes were measured, and not predicted.
    """

    side: str
    boxes: tuple[Box, ...]
    links: tuple[Link, ...]
    repeats: Mapping[Path, Repeat]
    classes: Mapping[Path, str]
    operators: int
    was: int | None = None
    measured: bool = False

    @property
    def time(self) -> str:
        """What the seconds are."""
        return "measured" if self.measured else "predicted"

    @cached_property
    def seconds(self) -> float:
        """Of all boxes."""
        return sum(box.seconds for box in self.boxes)

    def copies(self, path: Path) -> int:
        """How many equal modules a drawn one stands for: 12 for one layer of twelve, and for what is in it."""
        return prod(self.repeats[path[:d]].count for d in range(1, len(path) + 1) if path[:d] in self.repeats)

    def wide(self) -> set[str]:
        """Boxes with so many users that arrows to all of them would hide the rest, and take minutes to lay out."""
        users = Counter(link.source for link in self.links)
        return {name for name, count in users.items() if count > MAX_ARROWS}

    def tree(self) -> Frame:
        """The modules as frames; a module with a single box has none: the box says enough."""
        root = Frame(())
        for box in self.boxes:
            frame = root
            for depth, part in enumerate(box.path, 1):
                frame = frame.children.setdefault(part, Frame(box.path[:depth]))
            frame.boxes.append(box)
        _flatten(root, self.repeats)
        return root


def _flatten(frame: Frame, repeats: Mapping[Path, Repeat]) -> None:
    """Drop the frames of single boxes, and join frames that hold nothing but another one."""
    for part, child in list(frame.children.items()):
        _flatten(child, repeats)
        if child.path not in repeats and len(child.boxes) == 1 and not child.children:
            frame.boxes += child.boxes
            del frame.children[part]
        elif child.path not in repeats and not child.boxes and len(child.children) == 1:
            frame.children[part] = next(iter(child.children.values()))
