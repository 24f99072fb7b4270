"""The Inductor backend: hands the ATen graph to torch's compiler without a second Dynamo trace."""

from txgraph.backends.inductor.lower import InductorBackend

__all__ = ["InductorBackend"]
