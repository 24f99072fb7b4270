"""A drawing and all that is known of it as one page that needs nothing else, not even a network or Graphviz.

The graph is laid out in the browser, by Graphviz compiled to WebAssembly (``web/viz-global.js``: https://viz-js.com,
MIT; Graphviz: Eclipse Public License), so that modules can be opened and closed.
"""

from __future__ import annotations

import base64
import gzip
import json
from html import escape
from importlib import resources

from txgraph.render.drawing import Drawing, Stages
from txgraph.render.page import page_data


def to_html(stages: Stages, drawing: Drawing, title: str, first: str = "diff") -> str:
    """The page: views of the graph to search and to open, and the report as tables.

    Args:
        first: the view that is shown when the page is opened; the diff if it has no such view.
    """
    data = json.dumps(page_data(stages, drawing) | {"first": first}, separators=(",", ":")).encode()
    # Not str.format: scripts and styles are full of braces.
    page = _file("page.html")
    for name, text in {
        "title": escape(title or "txgraph"),
        "style": _file("page.css"),
        "viz": _file("viz-global.js"),
        "script": f"{_file('graph.js')}\n{_file('page.js')}",
        "data": base64.b64encode(gzip.compress(data, mtime=0)).decode(),
    }.items():
        page = page.replace(f"{{{name}}}", text)
    return page


def to_iframe(page: str, height: int = 700) -> str:
    """A page as a part of another one, such as a notebook."""
    return f'<iframe srcdoc="{escape(page)}" style="width: 100%; height: {height}px; border: 0"></iframe>'


def _file(name: str) -> str:
    return resources.files("txgraph.render").joinpath("web", name).read_text(encoding="utf-8").strip()
