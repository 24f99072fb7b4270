"""Compression that is followed by training: models whose linears train in the form that inference will have."""

from txgraph.retraining.compress import compress
from txgraph.retraining.layers import CompressedLinear, LowRankLinear
from txgraph.retraining.prune import Prune

__all__ = ["CompressedLinear", "LowRankLinear", "Prune", "compress"]
