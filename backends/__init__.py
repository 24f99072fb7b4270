"""Backends: from a graph to something that runs. One small protocol, one folder a backend."""

from __future__ import annotations

from txgraph.backends.base import Backend, Compiled
from txgraph.backends.choose import choose_backend

__all__ = ["Backend", "Compiled", "choose_backend"]
