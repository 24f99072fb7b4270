"""From an ``nn.Module`` and a call's inputs to a :class:`txgraph.ir.Graph` and its guards."""

from txgraph.capture.calls import CallSignature, FlatCall
from txgraph.capture.export import Capture, capture
from txgraph.capture.guards import InputGuard, ModelState
from txgraph.capture.shapes import dynamic_axes

__all__ = ["CallSignature", "Capture", "FlatCall", "InputGuard", "ModelState", "capture", "dynamic_axes"]
