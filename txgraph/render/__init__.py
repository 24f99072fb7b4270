"""Pictures of graphs."""

from txgraph.render.drawing import Stages
from txgraph.render.files import Picture, render

__all__ = ["Picture", "Stages", "render"]
