"""Backends: from a graph to something that runs. One small protocol, one folder a backend."""

from __future__ import annotations

from txgraph.backends.base import Backend, Compiled, Watch
from txgraph.backends.choose import backend_names, choose_backend

__all__ = ["Backend", "Compiled", "Watch", "backend_names", "choose_backend"]
