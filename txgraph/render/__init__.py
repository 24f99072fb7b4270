"""Pictures of graphs."""

from txgraph.render.drawing import Stages
from txgraph.render.files import Picture, read_benchmark, render, render_budget, to_page
from txgraph.render.html import to_iframe

__all__ = ["Picture", "Stages", "read_benchmark", "render", "render_budget", "to_iframe", "to_page"]
