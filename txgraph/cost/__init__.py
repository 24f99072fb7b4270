"""Predicted time on a target: FLOPs, bytes and the roofline of described or measured hardware."""

from txgraph.cost.adapter import size_hint
from txgraph.cost.busy import BUSY, CoreClock
from txgraph.cost.calibrate import calibrate
from txgraph.cost.counts import bytes_moved, flops
from txgraph.cost.hardware import HARDWARE, Hardware, hardware_of
from txgraph.cost.measurement import Measurement
from txgraph.cost.model import CostModel
from txgraph.cost.timing import best_seconds, random_like

__all__ = [
    "BUSY",
    "HARDWARE",
    "CoreClock",
    "CostModel",
    "Hardware",
    "Measurement",
    "best_seconds",
    "bytes_moved",
    "calibrate",
    "flops",
    "hardware_of",
    "random_like",
    "size_hint",
]
