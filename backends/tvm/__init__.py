"""The TVM backend. Nothing here imports tvm before a graph is lowered."""

from txgraph.backends.tvm.lower import TvmBackend

__all__ = ["TvmBackend"]
