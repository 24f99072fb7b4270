"""Pictures of graphs."""

from txgraph.render.files import render_graphs

__all__ = ["render_graphs"]
