"""Compiled graphs kept on disk, so that another process starts warm."""

from txgraph.cache.fingerprint import CannotTell, fingerprint
from txgraph.cache.store import Store

__all__ = ["CannotTell", "Store", "fingerprint"]
