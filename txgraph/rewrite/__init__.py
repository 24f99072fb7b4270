"""Rewriting: patterns, matches, reasons, and the driver that applies one rule to a graph."""

from txgraph.rewrite.base import Accept, NodePass, Pass, PassContext, Reject, Rewrite, RewritePass, replace
from txgraph.rewrite.driver import apply_rule, explain_pass
from txgraph.rewrite.match import Match, NearMiss
from txgraph.rewrite.pattern import Pattern, PatternFactory

__all__ = [
    "Accept",
    "Match",
    "NearMiss",
    "NodePass",
    "Pass",
    "PassContext",
    "Pattern",
    "PatternFactory",
    "Reject",
    "Rewrite",
    "RewritePass",
    "apply_rule",
    "explain_pass",
    "replace",
]
