"""Write a drawing to a file."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import graphviz

from txgraph.errors import TxgraphError
from txgraph.ir import Graph
from txgraph.render.dot import to_dot
from txgraph.render.drawing import draw
from txgraph.render.html import to_html
from txgraph.rewrite import Rewrite

log = logging.getLogger(__name__)

FORMATS = (".svg", ".png", ".pdf", ".dot", ".html")
VIEWS = {"side-by-side": ("before", "after"), "before": ("before",), "after": ("after",)}


def render_graphs(
    before: Graph,
    after: Graph,
    path: str | Path,
    title: str = "",
    report: str = "",
    rewrites: Sequence[Rewrite] = (),
    view: str = "side-by-side",
    focus: str = "",
) -> Path:
    """Draw two stages of a graph, with what was fused, added and removed between them.

    Args:
        before, after: the captured graph, and what it became.
        path: ends in one of :data:`FORMATS`; an existing file is replaced.
        title: of the drawing. report: text for the .html page.
        rewrites: records of what was applied, in order: they say what became of which node.
        view: which of the two is drawn: one of :data:`VIEWS`.
        focus: the path of a module, such as ``encoder.layer.3``: only what belongs to it is drawn.

    Returns:
        The file written. Without Graphviz's ``dot`` program that is the .dot source, with a warning.

    Raises:
        ValueError: the file name has another ending; there is no such view, or no such module.
        OSError: the file cannot be written.
        TxgraphError: ``dot`` failed.
    """
    path = Path(path)
    ending = path.suffix.lower()
    if ending not in FORMATS:
        raise ValueError(f"cannot draw to {path.name!r}: the name must end in one of {', '.join(FORMATS)}")
    if view not in VIEWS:
        raise ValueError(f"there is no view {view!r}: it is one of {', '.join(VIEWS)}")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"cannot draw to {path}: there is no folder {path.parent}; make it first")
    drawing = draw(before, after, rewrites, focus)
    dot = to_dot(drawing, title, VIEWS[view])
    if ending == ".dot":
        return _write(path, dot.source.encode())
    try:
        picture = dot.pipe(format="svg" if ending == ".html" else ending[1:], quiet=True)
    except graphviz.ExecutableNotFound:
        source = _write(path.with_suffix(".dot"), dot.source.encode())
        log.warning(
            "wrote %s instead of %s: drawing needs the program `dot` of Graphviz, which is not on the PATH. "
            "Install it (apt-get install graphviz, brew install graphviz), then: dot -T%s %s -O",
            source,
            path.name,
            "svg" if ending == ".html" else ending[1:],
            source,
        )
        return source
    except (graphviz.CalledProcessError, BrokenPipeError) as error:
        raise TxgraphError(f"dot could not draw {path}: {error}") from error
    if ending == ".html":
        picture = to_html(picture.decode(), drawing, title, report).encode()
    return _write(path, picture)


def _write(path: Path, content: bytes) -> Path:
    try:
        path.write_bytes(content)
    except OSError as error:
        raise OSError(error.errno, f"cannot write the drawing: {error.strerror}", str(path)) from error
    return path
