"""Repeated layers: found by their structure, each taken out as a graph of its own."""

from txgraph.ir.regions.region import Region, outline
from txgraph.ir.regions.search import find_regions

__all__ = ["Region", "find_regions", "outline"]
