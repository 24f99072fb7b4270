"""Pictures of graphs."""

from txgraph.render.drawing import Stages
from txgraph.render.files import Picture, read_benchmark, render, to_page
from txgraph.render.html import to_iframe

__all__ = ["Picture", "Stages", "read_benchmark", "render", "to_iframe", "to_page"]
