"""Compiled graphs and measurements kept on disk, so that another process starts warm."""

from txgraph.cache.fingerprint import CannotTell, fingerprint
from txgraph.cache.measurements import Measurements
from txgraph.cache.store import Store, is_on

__all__ = ["CannotTell", "Measurements", "Store", "fingerprint", "is_on"]
