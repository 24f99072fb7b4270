"""Pictures of graphs."""

from txgraph.render.drawing import Stages
from txgraph.render.files import Picture, render, to_page
from txgraph.render.html import to_iframe

__all__ = ["Picture", "Stages", "render", "to_iframe", "to_page"]
