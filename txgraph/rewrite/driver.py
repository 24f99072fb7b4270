"""Applies one rule to a graph: find, check, weigh, replace; linear in the size of the graph."""

from __future__ import annotations

from torch.fx import Node

from txgraph.errors import PassFailed
from txgraph.ir import Graph, GraphBuilder, describe, packet_of, type_of
from txgraph.rewrite.base import Accept, PassContext, Reject, Rewrite, RewritePass
from txgraph.rewrite.match import Match, NearMiss
from txgraph.rewrite.pattern import Failure, Pattern, PatternFactory, State

MAX_SWEEPS = 100


def apply_rule(rule: RewritePass, graph: Graph, context: PassContext) -> list[Rewrite]:
    """Apply ``rule`` wherever it fits, sweep after sweep, until a sweep changes nothing.

    Raises:
        PassFailed: the rule still fits after many sweeps: it undoes its own work.
    """
    pattern = rule.pattern(PatternFactory())
    rewrites: list[Rewrite] = []
    for _ in range(MAX_SWEEPS):
        applied = _sweep(rule, pattern, graph, context)
        rewrites += applied
        if not applied:
            return rewrites
    raise PassFailed(
        f"pass {rule.name} does not converge: it still rewrites after {MAX_SWEEPS} sweeps, "
        f"last at {rewrites[-1].removed[0]} ({rewrites[-1].location}); its result must not match its own pattern"
    )


def explain_rule(rule: RewritePass, graph: Graph, context: PassContext) -> tuple[list[Match], list[NearMiss]]:
    """Where ``rule`` fits in ``graph`` now, and its near misses, nearest first; nothing is changed."""
    pattern = rule.pattern(PatternFactory())
    matches, misses = [], []
    for node in graph.calls():
        if packet_of(node) in pattern.roots():
            found = _find(rule, pattern, node, graph, context)
            if isinstance(found, Match):
                matches.append(found)
            else:
                misses.append(found)
    return matches, sorted(misses, key=lambda miss: -miss.depth)


def _sweep(rule: RewritePass, pattern: Pattern, graph: Graph, context: PassContext) -> list[Rewrite]:
    roots = pattern.roots()
    erased: set[Node] = set()
    applied = []
    for node in reversed(graph.calls()):  # users first: the largest match wins
        if node in erased or packet_of(node) not in roots:
            continue
        match = _find(rule, pattern, node, graph, context)
        if isinstance(match, Match):
            applied.append(_replace(rule, match, graph, erased))
    return applied


def _find(rule: RewritePass, pattern: Pattern, root: Node, graph: Graph, context: PassContext) -> Match | NearMiss:
    failure = Failure()
    for state in pattern.match(root, State(), failure):
        match = Match(root, state.nodes, state.bound, graph, context)
        verdict = _used_outside(match) or rule.check(match)
        if isinstance(verdict, Accept):
            gain = rule.gain(match)
            if gain is None or gain > 0:
                return match
            verdict = Reject(f"no gain: predicted {gain * 1e6:.1f} µs on {context.target}", root)
        failure.record(len(state.nodes), verdict.reason, verdict.node)
    return NearMiss.at(rule.name, root, failure.depth, failure.reason, failure.node)


def _used_outside(match: Match) -> Reject | None:
    """An inner value with a user outside the match would be computed twice, or lost."""
    inside = set(match.nodes)
    for node in match.nodes:
        if node is match.root:
            continue
        for user in node.users:
            if user not in inside:
                return Reject(f"inner value %{node.name} is also used by %{user.name}", node)
    return None


def _replace(rule: RewritePass, match: Match, graph: Graph, erased: set[Node]) -> Rewrite:
    builder = GraphBuilder(graph, match.root, like=match.nodes[::-1], made_by=rule.name)
    value = rule.rewrite(match, builder)
    _check_replacement(rule, match, value, graph)
    record = Rewrite.of(rule.name, match.nodes, builder.made)
    match.root.replace_all_uses_with(value)
    for node in match.nodes:
        if node not in erased and not node.users and node is not value:
            graph.fx.erase_node(node)
            erased.add(node)
    return record


def _check_replacement(rule: RewritePass, match: Match, value: object, graph: Graph) -> None:
    if not isinstance(value, Node) or value.graph is not graph.fx:
        raise PassFailed(
            f"pass {rule.name}: rewrite() of {describe(match.root)} returned {value!r}; "
            f"return a node of this graph: one bound by the pattern, or one made with the builder"
        )
    was, now = type_of(match.root), type_of(value)
    if was is None or now is None or (was.dtype, was.rank, was.device) != (now.dtype, now.rank, now.device):
        raise PassFailed(f"pass {rule.name}: {describe(match.root)} is {was}, its replacement %{value.name} is {now}")
