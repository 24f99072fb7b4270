"""The errors txgraph raises; every one is a :class:`TxgraphError`.

A message names the pass, the node and the user's source line where there is one, then what was
expected, what was found, and what to do about it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from txgraph.ir import Graph


class TxgraphError(Exception):
    """Base of every error that txgraph raises on purpose."""


class InvalidGraph(TxgraphError):
    """A graph breaks the IR's written spec (:mod:`txgraph.ir.spec`)."""


class CaptureFailed(TxgraphError):
    """The model could not be captured as one graph; names the user's source line."""


class PassFailed(TxgraphError):
    """A pass raised, did not converge, or left an invalid graph.

    Attributes:
        graph: the graph before that pass, intact.
    """

    def __init__(self, message: str, graph: Graph | None = None) -> None:
        super().__init__(message)
        self.graph = graph


class UnsupportedOp(TxgraphError):
    """A backend cannot lower an operator of the graph."""


class BackendFailed(TxgraphError):
    """A backend failed to compile or to run a graph that it accepted."""


class VerificationFailed(TxgraphError):
    """The captured graph itself does not reproduce eager within the acceptance gates."""


class GuardFailed(TxgraphError):
    """A call does not fit what the model was optimized for and must not be answered."""


class CheckFailed(TxgraphError):
    """A rewrite rule is wrong, or no graph was found that it rewrites.

    Attributes:
        counterexample: the graph for which it is wrong; ``None`` if none was found that it rewrites.
    """

    def __init__(self, message: str, counterexample: Graph | None = None) -> None:
        super().__init__(message)
        self.counterexample = counterexample
