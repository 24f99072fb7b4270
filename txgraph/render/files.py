"""Write a drawing to a file."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import graphviz

from txgraph.errors import TxgraphError
from txgraph.ir import Kernel
from txgraph.lossy import Spending
from txgraph.render.budget import to_svg
from txgraph.render.dot import to_dot
from txgraph.render.drawing import Drawing, Stages, draw
from txgraph.render.html import to_html
from txgraph.render.levels import LEVELS, kernels, modules
from txgraph.render.merge import merge, unchanged_parts
from txgraph.render.panel import Panel

log = logging.getLogger(__name__)

FORMATS = (".svg", ".png", ".pdf", ".dot", ".html")
VIEWS = ("diff", "side-by-side", "before", "after")


@dataclass(frozen=True)
class Picture:
    """What is drawn of a graph, and how closely.

    Attributes:
        view: ``"diff"`` draws both stages as one: changes in full, what is unchanged in one box; ``"side-by-side"``,
            ``"before"`` and ``"after"`` draw every operator. By default the diff, and of kernels the graph after.
        level: a box for each ``"op"``, ``"module"`` or ``"kernel"``.
        depth: modules further inside are drawn as one box: at depth 1 the children of the model are.
        focus: the path of a module, such as ``"encoder.layer.3"``: only what belongs to it is drawn.
        collapse: whether repeated layers are drawn once, and unchanged parts of a diff as one box.

    Raises:
        ValueError: there is no such view, level or depth.
    """

    view: str | None = None
    level: str = "op"
    depth: int | None = None
    focus: str = ""
    collapse: bool = True

    def __post_init__(self) -> None:
        if self.view is not None and self.view not in VIEWS:
            raise ValueError(f"there is no view {self.view!r}: it is one of {', '.join(VIEWS)}")
        if self.level not in LEVELS:
            raise ValueError(f"there is no level {self.level!r}: it is one of {', '.join(LEVELS)}")
        if self.depth is not None and self.depth < 1:
            raise ValueError(f"depth is {self.depth}, but a module's children are at depth 1")
        if self.level == "kernel" and self.view not in (None, "after"):
            raise ValueError(f"view is {self.view!r}, but only the graph after the passes has kernels: view='after'")

    def drawing(self, stages: Stages) -> Drawing:
        """Both graphs, as far as they are looked at.

        Raises:
            ValueError: there is no such module.
        """
        return draw(stages, self.focus, self.collapse)

    @property
    def shown(self) -> str:
        """The view, or the default."""
        return self.view or ("after" if self.level == "kernel" else "diff")

    def panels(self, drawing: Drawing, launches: Sequence[Kernel] = ()) -> list[Panel]:
        """What is drawn: two panels side by side, or one.

        Args:
            launches: the kernels of the graph after.

        Raises:
            ValueError: kernels are asked for, and none is known.
        """
        both = (drawing.before, drawing.after)
        if self.shown == "diff":
            panels = [merge(drawing)]
        else:
            panels = [panel for panel in both if self.shown in (panel.side, "side-by-side")]
        if self.level == "kernel":
            return [kernels(panel, launches) for panel in panels]
        if self.level == "module" or self.depth is not None:
            return [modules(panel, self.depth, always=self.level == "module") for panel in panels]
        if self.shown == "diff" and self.collapse:
            return [unchanged_parts(panel) for panel in panels]
        return panels


def render(stages: Stages, path: str | Path, picture: Picture, title: str = "") -> Path:
    """Draw two stages of a graph, with what was fused, added and removed between them.

    Args:
        path: ends in one of :data:`FORMATS`; an existing file is replaced. The .html page has all views, and shows the
            one that is asked for first.
        title: of the drawing.

    Returns:
        The file written. Without Graphviz's ``dot`` program that is the .dot source, with a warning.

    Raises:
        ValueError: the file name has another ending; there is no such module.
        OSError: the file cannot be written.
        TxgraphError: ``dot`` failed.
    """
    path = Path(path)
    ending = path.suffix.lower()
    if ending not in FORMATS:
        raise ValueError(f"cannot draw to {path.name!r}: the name must end in one of {', '.join(FORMATS)}")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"cannot draw to {path}: there is no folder {path.parent}; make it first")
    if ending == ".html":
        return _write(path, to_page(stages, picture, title).encode())
    drawing = picture.drawing(stages)
    dot = to_dot(picture.panels(drawing, stages.kernels), drawing.changes, title)
    if ending == ".dot":
        return _write(path, dot.source.encode())
    try:
        return _write(path, dot.pipe(format=ending[1:], quiet=True))
    except graphviz.ExecutableNotFound:
        source = _write(path.with_suffix(".dot"), dot.source.encode())
        log.warning(
            "wrote %s instead of %s: drawing needs the program `dot` of Graphviz, which is not on the PATH. "
            "Install it (apt-get install graphviz, brew install graphviz), then: dot -T%s %s -O; an .html page needs "
            "no Graphviz",
            source,
            path.name,
            ending[1:],
            source,
        )
        return source
    except (graphviz.CalledProcessError, BrokenPipeError) as error:
        raise TxgraphError(f"dot could not draw {path}: {error}") from error


def render_budget(spending: Spending, path: str | Path) -> Path:
    """Draw how a budget was spent: relative error against seconds, and what each place gains and costs.

    Args:
        path: ends in .svg; an existing file is replaced.

    Raises:
        ValueError: the file name has another ending. OSError: the file cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() != ".svg":
        raise ValueError(f"cannot draw a budget to {path.name!r}: the name must end in .svg; the page has it, too")
    return _write(path, to_svg(spending).encode())


def to_page(stages: Stages, picture: Picture, title: str = "") -> str:
    """The .html page.

    Raises:
        ValueError: there is no such module.
    """
    first = "kernels" if picture.level == "kernel" else picture.shown
    return to_html(stages, picture.drawing(stages), title, first)


def read_benchmark(path: str | Path) -> dict[str, Any]:
    """What ``txgraph bench -o`` wrote, for :class:`Stages`.

    Raises:
        ValueError: it is something else. OSError: it cannot be read.
    """
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
        if all("competitors" in row for row in found["rows"]):
            return dict(found)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no benchmark: txgraph bench MODEL -o FILE writes one") from error
    raise ValueError(f"{path} is no benchmark: a row of it has no competitors")


def _write(path: Path, content: bytes) -> Path:
    try:
        path.write_bytes(content)
    except OSError as error:
        raise OSError(error.errno, f"cannot write the drawing: {error.strerror}", str(path)) from error
    return path
