"""Rewriting: patterns, matches, reasons, and the driver that applies one rule to a graph."""

from txgraph.rewrite.base import Accept, NodePass, Pass, PassContext, Reject, Rewrite, RewritePass, replace
from txgraph.rewrite.driver import apply_rule, explain_pass
from txgraph.rewrite.lossy import LinearPass, LossyContext, LossyPass, Observed, Place, Prepared
from txgraph.rewrite.match import Match, NearMiss
from txgraph.rewrite.pattern import Pattern, PatternFactory

__all__ = [
    "Accept",
    "LinearPass",
    "LossyContext",
    "LossyPass",
    "Match",
    "NearMiss",
    "NodePass",
    "Observed",
    "Pass",
    "PassContext",
    "Pattern",
    "PatternFactory",
    "Place",
    "Prepared",
    "Reject",
    "Rewrite",
    "RewritePass",
    "apply_rule",
    "explain_pass",
    "replace",
]
