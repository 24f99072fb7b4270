"""Write pictures."""

from pathlib import Path

from txgraph.ir import Graph


def render_graphs(before: Graph, after: Graph, path: str | Path, title: str = "", report: str = "") -> Path:
    """Placeholder until the drawing lands."""
    raise NotImplementedError("drawing")
